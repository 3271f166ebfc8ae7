"""What keeps bytes under names and may not forget: one protocol, several stores."""
