"""Image Repository: keeps images and serves any size and format of them."""
