"""The sysadmin's guide claims nothing that no test shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import test_assemble
import test_caches
import test_instances
import test_nginx
import test_on_swift
import test_package
import test_peers
import test_purge
import test_report
from checks import test_front
from nginx import (
    guide,
    test_cache,
    test_connections,
    test_debian,
    test_end_to_end,
    test_front_options,
    test_headers,
    test_hops,
    test_include,
    test_limits,
    test_log,
    test_machines,
    test_negotiation,
    test_operation,
    test_pitfalls,
    test_queries,
    test_refresh,
    test_running,
    test_set_up,
    test_several,
    test_stale,
    test_tls,
)
from stores import test_disk
from web import test_answers, test_errors, test_images, test_uploads, test_views

Test = Callable[..., object]


PURGED = (
    test_end_to_end.test_after_a_put_no_url_gives_an_old_pixel,
    test_end_to_end.test_after_a_delete_the_image_is_gone_and_can_come_back,
    test_end_to_end.test_a_purge_makes_nginx_ask_again,
    test_end_to_end.test_a_change_leaves_nothing_of_what_was_made_before_at_any_level,
)
LIMITED = (
    test_limits.test_cold_requests_over_the_limit_are_refused_while_hits_go_on,
    test_limits.test_a_client_that_asks_too_fast_waits_and_is_then_refused,
)
CONNECTIONS = (
    test_connections.test_a_cold_request_takes_four_connections,
    test_connections.test_one_process_of_its_own_has_enough_for_all_that_are_let_through,
)
SET_UP = (
    test_set_up.test_the_unit_runs_a_server_with_the_configuration_of_the_guide,
    test_set_up.test_the_check_finds_nothing_wrong_with_it,
)
UNIT = (
    test_set_up.test_the_unit_leaves_the_socket_to_nginx_alone_and_the_server_its_time,
    test_set_up.test_the_unit_runs_a_server_with_the_configuration_of_the_guide,
)
WORDS = (test_operation.test_each_word_of_x_cache_is_said_and_no_other,)

CLAIMS: dict[str, tuple[Test, ...]] = {
    # The beginning, and setting it up
    "serves the hot ones without asking the server": (
        test_end_to_end.test_a_second_request_is_answered_by_nginx_alone,
    ),
    "Its configuration is made from the server's own": (
        test_end_to_end.test_the_harness_makes_what_the_command_makes,
        test_operation.test_times_and_sizes_follow_from_the_workers_and_the_limits,
    ),
    "Whoever may open its socket is through": UNIT,
    "listen: unix:/run/image_repo/server.sock behind_nginx: true": SET_UP,
    "[Unit] Description=Image Repository": SET_UP,
    "**2. Its configuration.** It holds a secret": SET_UP,
    "**3. Its unit**": UNIT,
    "**1. The server, as a user of its own.**": (
        test_package.test_the_installed_package_is_complete,
    ),
    "pip install -c constraints.txt .": (
        test_package.test_the_installed_package_is_complete,
    ),
    "`TimeoutStopSec` lies above `http.drain_seconds`": UNIT,
    "--check` looks at all of this": (
        test_set_up.test_the_check_finds_nothing_wrong_with_it,
    ),
    "a mistake in the configuration would else leave an empty one": (
        test_running.test_a_running_nginx_takes_the_file_as_the_guide_writes_it,
    ),
    "image_repo.new && mv /etc/nginx/image_repo.new": (
        test_running.test_a_running_nginx_takes_the_file_as_the_guide_writes_it,
    ),
    "**Write the file again, and reload nginx, after every change": (
        test_operation.test_times_and_sizes_follow_from_the_workers_and_the_limits,
        test_running.test_a_running_nginx_takes_the_file_as_the_guide_writes_it,
    ),
    "A change of `cache_path` takes a restart of nginx": (
        test_set_up.test_another_cache_path_takes_a_restart,
    ),
    "Into a stock one (Debian: files in `/etc/nginx/conf.d`)": (
        test_running.test_a_running_nginx_takes_the_file_as_the_guide_writes_it,
        test_debian.test_it_caches_limits_and_logs_as_another_user_than_the_server,
    ),
    "of the server's user, with everything it writes below one directory": (
        test_running.test_an_nginx_of_its_own_writes_below_one_directory_alone,
    ),
    "nginx-conf --standalone /srv/images/nginx > nginx.conf": (
        test_running.test_an_nginx_of_its_own_writes_below_one_directory_alone,
    ),
    "the old pixels that it has until they expire, purges miss them": (
        test_cache.test_a_second_recipe_is_a_second_set_of_entries,
    ),
    "and nothing new is kept": (
        test_end_to_end.test_nothing_is_kept_under_the_keys_of_another_configuration,
    ),
    "logs `nginx takes other kinds or thumbnails for granted`": (
        test_negotiation.test_a_server_says_so_if_nginx_takes_other_things_for_granted,
    ),
    "an `http` that sets it already needs that line taken out there": (
        test_running.test_an_http_that_sets_the_size_of_the_hash_must_lose_that_line,
    ),
    # What happens to a request
    "every other answer is passed on, never kept": (
        test_pitfalls.test_what_needs_a_credential_is_never_kept,
        test_hops.test_health_passes_and_is_never_kept,
    ),
    "Only raw text in the strict canonical form goes straight to the cached hop": (
        test_hops.test_a_canonical_path_goes_to_the_cached_hop_and_is_kept,
        test_nginx.test_every_canonical_path_is_hot,
        test_nginx.test_nothing_else_is,
    ),
    "`/images/x`, `/images/x.png` and queries of box, kind and thumbnail": (
        test_queries.test_a_plain_url_goes_to_its_canonical_path,
        test_queries.test_a_plain_url_hits_without_the_server,
        test_queries.test_words_may_come_in_any_order,
    ),
    "`.auto` does where Accept names avif or webp": (
        test_negotiation.test_a_better_kind_comes_from_the_cache_without_the_server,
    ),
    "its status is the same with and without nginx": (
        test_end_to_end.test_odd_urls_have_the_same_status_with_and_without_nginx,
        test_queries.test_all_else_is_the_servers,
    ),
    "all spellings of one image share one entry": (
        test_end_to_end.test_every_spelling_shares_one_entry,
    ),
    "neither cookies nor credentials can get into the cache": (
        test_hops.test_the_cached_hop_gets_nothing_of_the_clients,
        test_pitfalls.test_what_one_client_may_see_is_what_all_do,
    ),
    "nginx reads no file of the server's, and needs no right to": (
        test_nginx.test_no_file_but_its_own_can_be_had_of_nginx,
    ),
    "its limits meet only requests that cost the server something": (
        *LIMITED,
        test_limits.test_revalidations_and_refreshes_are_not_limited,
    ),
    "It also has `stub_status`": (
        test_log.test_the_state_of_nginx_is_told_on_its_own_socket_alone,
    ),
    # Where things are kept
    "| browser | derived images |": (
        test_images.test_answers_say_how_long_they_may_be_cached,
        test_end_to_end.test_a_hit_answers_ranges_and_revalidation,
    ),
    "| browser | versioned URLs": (
        test_images.test_a_versioned_url_is_immutable_while_its_tag_is_current,
    ),
    "| CDN before nginx |": (
        test_answers.test_how_long_an_image_may_be_kept_depends_on_its_url,
        test_images.test_every_answer_about_an_image_has_its_tag_for_caches_further_out,
    ),
    "| nginx | derived images |": (
        test_answers.test_nginx_holds_nothing_for_longer_than_is_known,
        test_cache.test_an_expired_entry_is_revalidated_by_its_etag,
    ),
    "| nginx | 404, 410 |": (
        test_cache.test_absence_is_kept_ten_seconds_and_takes_the_old_entrys_place,
    ),
    "| nginx | other errors |": (
        test_cache.test_an_error_is_kept_one_second_if_the_server_says_so,
        test_cache.test_cache_control_alone_never_keeps_an_error,
    ),
    "replaced or deleted; losing it loses nothing": (
        test_caches.test_a_server_whose_cache_is_removed_makes_a_new_one,
        test_instances.test_servers_whose_shared_cache_is_emptied_lose_nothing,
    ),
    "A crowd at one key costs one derivation": (
        test_cache.test_a_cold_key_is_asked_for_once_however_many_wait,
        test_end_to_end.test_a_thousand_first_requests_cause_one_derivation,
    ),
    "At an expired key one asks the server": (
        test_stale.test_an_expired_entry_is_given_to_a_crowd_while_one_request_renews_it,
    ),
    "but never after a purge": (
        test_stale.test_nobody_gets_an_expired_entry_that_was_purged,
    ),
    "the server purges what was answered within both times together": (
        test_operation.test_the_server_remembers_answers_for_both_times_together,
        test_purge.test_an_answer_is_remembered_until_its_time,
    ),
    "Where it is 0, or after it, each asks the server": (
        test_operation.test_without_a_time_for_that_each_asks_at_an_expired_key,
    ),
    # What X-Cache says
    "Every answer of the cached hop has it, and each line of the log": WORDS,
    "| HIT |": WORDS,
    "| MISS |": WORDS,
    "| EXPIRED |": WORDS,
    "| REVALIDATED |": WORDS,
    "| UPDATING |": WORDS,
    "| BYPASS |": WORDS,
    "| none | never cached: uploads, lists, errors of nginx's own |": (
        *WORDS,
        test_headers.test_every_answer_of_nginx_itself_is_guarded,
        test_operation.test_an_expired_entry_is_not_given_while_the_server_is_away,
    ),
    # Options
    "All are in section `nginx` of the server's configuration": (
        test_front_options.test_every_option_of_nginx_is_in_the_guide_once,
        test_front_options.test_an_option_of_the_guide_has_the_default_that_is_said,
    ),
    "**listen** (`listen`): addresses with ports, separated by a space": (
        test_running.test_it_listens_wherever_it_is_told_to,
    ),
    "**server_name** (`server_name`): host names answered to": (
        test_running.test_other_sites_may_share_the_port,
    ),
    "all requests for an image go to the same one": (
        test_several.test_every_form_of_url_of_an_image_goes_to_the_same_server,
    ),
    "when it stops the others take over what is read": (
        test_several.test_a_server_that_has_stopped_does_not_cost_its_images,
        test_several.test_a_request_that_may_have_been_done_is_not_sent_again,
    ),
    "nginx makes the last directory, not its parents": (
        test_running.test_nginx_makes_the_last_directory_of_its_cache_and_no_parents,
    ),
    "**cache_size** (`max_size`): least used answers leave beyond it": (
        test_running.test_what_was_not_used_for_longest_leaves_a_cache_that_is_full,
    ),
    "about 8,000 per MiB; beyond it least used answers leave": (
        test_running.test_a_mebibyte_lists_about_eight_thousand_entries,
    ),
    "**cache_inactive** (`inactive`): unasked entries leave": (
        test_running.test_what_nobody_asks_for_leaves,
    ),
    "**purge**: how old images leave": (
        test_purge.test_files_are_unlinked_where_they_are_ours,
        test_purge.test_nginx_is_refreshed_where_files_are_not_ours,
    ),
    "**refresh_url**: where the server reaches nginx for a refresh": (
        test_purge.test_nginx_is_reached_at_the_first_place_it_listens,
    ),
    "**cold_listen** (`listen` of the cold hop): the socket, or the port": (
        test_limits.test_the_cold_hop_can_be_reached_from_this_machine_alone,
        test_limits.test_a_port_of_loopback_does_as_well,
        test_limits.test_by_default_the_socket_is_where_nginx_may_make_it,
    ),
    "it was killed with -9; remove the socket": (
        test_running.test_the_socket_that_a_killed_nginx_leaves_must_be_removed,
    ),
    "**cold_total** (`limit_conn`): cold requests under way at once; more are a 503": (
        test_limits.test_all_clients_together_have_a_limit,
    ),
    "an IPv6 network of 64 bits being one": (
        test_limits.test_a_client_is_an_address_or_an_ipv6_network,
        test_limits.test_one_client_does_not_use_up_what_others_may,
    ),
    "as many again wait their turn, and more are a 429": (
        test_limits.test_a_client_that_asks_too_fast_waits_and_is_then_refused,
        test_limits.test_a_page_of_new_images_is_not_refused_as_nginx_comes,
    ),
    "`cache-report` shows refusals of good clients": (
        test_report.test_clients_are_ordered_by_how_often_they_were_refused,
    ),
    "**uploads_per_client** (`limit_conn`): uploads arriving at once; more are a 429": (
        test_limits.test_uploads_of_one_client_have_a_limit,
    ),
    "**archives_per_client** (`limit_conn`): requests for all below a path": (
        test_limits.test_requests_of_one_client_for_all_below_a_path_have_a_limit,
    ),
    "**include** (`include`): a file of your own for the server block": (
        test_include.test_a_header_of_ones_own_is_added_to_ours,
        test_include.test_nothing_is_included_where_nothing_is_named,
    ),
    "**trusted_proxies** (`set_real_ip_from`): whose `X-Forwarded-For` is": (
        test_limits.test_the_server_learns_the_clients_address_and_no_invented_one,
    ),
    "else all its clients are one to the limits": (
        test_tls.test_without_being_told_nginx_takes_all_for_one_client,
    ),
    "Time-outs and the size of a request follow from `workers` and `limits`": (
        test_operation.test_times_and_sizes_follow_from_the_workers_and_the_limits,
        test_nginx.test_the_lock_outlasts_the_slowest_answer,
    ),
    "15 s for the head of a request": (
        test_running.test_a_head_that_does_not_end_is_waited_for_fifteen_seconds,
    ),
    "30 s between two pieces of an upload or of an answer": (
        test_limits.test_one_who_stops_sending_or_reading_is_let_go,
    ),
    "0 takes a limit away": (test_limits.test_limits_of_0_are_none,),
    "`worker_connections 768` is enough for about 180 at once": CONNECTIONS,
    "A TLS server before it takes two more of each": (
        test_tls.test_a_cold_request_takes_two_connections_more_with_tls,
    ),
    "With few processes make it 2048": CONNECTIONS,
    "| `proxy_cache_key` | the recipe and the canonical path alone": (
        test_hops.test_every_name_is_kept_under_the_md5_of_its_decoded_path,
        test_hops.test_an_odd_url_is_answered_as_by_the_bare_server_and_spoils_nothing,
    ),
    "| `proxy_cache_lock_timeout`, `_age` | above `proxy_read_timeout`": (
        test_cache.test_the_lock_outlasts_a_derivation_of_more_than_five_seconds,
        test_nginx.test_the_lock_outlasts_the_slowest_answer,
    ),
    "| `proxy_cache_use_stale` (absent) |": (
        test_stale.test_what_a_refresh_leaves_is_not_given_while_it_is_renewed,
        test_cache.test_nobody_gets_an_expired_entry_while_it_is_renewed,
    ),
    "| `proxy_ignore_client_abort` |": (
        test_cache.test_a_client_that_leaves_does_not_throw_the_image_away,
    ),
    "| `proxy_pass_request_headers off` |": (
        test_hops.test_the_cached_hop_gets_nothing_of_the_clients,
    ),
    "| `max_fails=0` |": (
        test_pitfalls.test_one_request_that_every_server_drops_does_not_cost_the_others,
    ),
    "| `proxy_next_upstream` | only reads are sent to another server": (
        test_several.test_a_request_that_may_have_been_done_is_not_sent_again,
        test_several.test_a_server_that_has_stopped_does_not_cost_its_images,
    ),
    "| `proxy_ignore_headers Vary` |": (
        test_cache.test_the_servers_vary_and_cookies_neither_split_nor_prevent_an_entry,
    ),
    # Sizing
    "its bytes, in blocks of the disk": (
        test_running.test_an_entry_takes_its_bytes_and_little_more,
    ),
    "130 bytes of `cache_keys`": (
        test_running.test_a_mebibyte_lists_about_eight_thousand_entries,
    ),
    "400 bytes of its memory, for both times; the latest 100,000": (
        test_operation.test_what_may_have_to_be_purged_takes_little_memory,
        test_purge.test_the_latest_answers_are_remembered_and_never_more_than_the_limit,
    ),
    "they serve what nginx has dropped, without deriving": (
        test_operation.test_what_nginx_has_dropped_the_servers_disk_has,
    ),
    "(`/healthz`: `waiting`)": (
        test_operation.test_the_server_says_how_many_wait_for_a_worker,
    ),
    # Purging
    "no URL of this machine gives an old pixel": PURGED,
    "**unlink**: the server removes nginx's cache files": (
        test_purge.test_after_a_purge_a_replaced_image_is_new,
        test_purge.test_files_are_unlinked_where_they_are_ours,
    ),
    "The next request is a miss": (
        test_operation.test_a_purge_by_hand_makes_the_next_request_a_miss,
    ),
    "and its answer takes the entry's place": (
        test_purge.test_after_a_purge_a_replaced_image_is_new,
        test_stale.test_what_a_refresh_leaves_is_not_given_while_it_is_renewed,
    ),
    "16 to 128 letters and digits, such as `openssl rand -hex 32` gives": (
        test_operation.test_the_guides_way_to_a_secret_makes_one_that_is_taken,
        test_nginx.test_a_secret_that_nginx_would_read_otherwise_is_refused,
    ),
    "nginx and the server must have the same": (
        test_purge.test_a_wrong_secret_purges_nothing_and_is_noticed,
        test_purge.test_without_a_secret_nobody_passes_the_cache,
    ),
    "**none**: an old image stays until `http.s_maxage` has passed": (
        test_operation.test_without_a_purge_an_old_image_stays_until_its_time_is_over,
    ),
    "if neither works the server does not start": (
        test_purge.test_a_server_that_could_not_purge_nginx_does_not_start,
    ),
    "What may not be removed after all is refreshed": (
        test_refresh.test_files_that_we_may_not_remove_are_refreshed,
        test_refresh.test_only_a_way_that_was_not_said_is_left_for_another,
    ),
    "a refresh comes by the first of them": (
        test_refresh.test_a_purge_finds_the_site_among_others,
    ),
    "As root it would find rights that the server does not have": (
        test_front.test_root_is_told_that_it_is_not_the_user_of_the_server,
    ),
    "Where the log says that nginx did not take the secret": (
        test_purge.test_a_wrong_secret_purges_nothing_and_is_noticed,
    ),
    "By hand: `curl -X POST http://localhost:8080/images/plots/site-7/_/purge`": (
        test_operation.test_a_purge_by_hand_makes_the_next_request_a_miss,
    ),
    "stop nginx, remove what is in `cache_path`, start it": (
        test_operation.test_all_is_purged_by_removing_it_while_nginx_is_stopped,
    ),
    "A purge that fails is logged, `cannot purge …`, and tried again": (
        test_operation.test_a_purge_that_fails_is_tried_again,
    ),
    "A refresh is one request for each name that was answered lately": (
        test_operation.test_a_refresh_is_one_request_for_each_name,
    ),
    # Several servers
    "tell each other what changes by themselves": (
        test_instances.test_what_one_server_replaces_every_other_gives_at_once,
        test_instances.test_a_purge_through_nginx_reaches_every_server,
        test_peers.test_all_that_share_a_directory_are_told_but_not_who_tells,
    ),
    "then one of them derives an image": (
        test_instances.test_an_image_goes_to_one_of_the_servers_by_every_url,
        test_several.test_a_crowd_at_a_cold_image_costs_one_request_of_one_server,
    ),
    "give all one `http.refresh_secret`: a change is then seen at once": (
        test_machines.test_a_change_on_one_machine_is_seen_at_once_by_the_nginx_of_another,
        test_peers.test_those_of_the_configuration_are_told_with_the_common_secret,
    ),
    "One that sent an image's requests to another machine would not be purged": (
        test_machines.test_an_nginx_that_asks_the_server_of_another_machine_is_not_purged,
    ),
    "A server that is stopped finishes what is under way": (
        test_assemble.test_sigterm_finishes_what_is_under_way,
    ),
    "what is uploaded to them is a 502 until it is back": (
        test_several.test_a_request_that_may_have_been_done_is_not_sent_again,
    ),
    "each once `/readyz` of the one before says 200": (
        test_set_up.test_the_unit_runs_a_server_with_the_configuration_of_the_guide,
    ),
    # TLS, HTTP/2, a CDN
    "TLS is a server block of your own before this one, with HTTP/2": (
        test_tls.test_http_2_is_spoken_and_hits_come_through,
        test_tls.test_a_range_and_a_304_come_through,
    ),
    "listen 443 ssl http2;": (test_tls.test_http_2_is_spoken_and_hits_come_through,),
    "# the next nginx knows the limit": (
        test_tls.test_what_is_too_large_is_refused_by_the_next_nginx,
    ),
    "# it has a log, without what signs links": (
        test_tls.test_no_log_has_what_signs_a_link,
    ),
    "# no path here: the URL must pass as it is": (
        test_tls.test_an_odd_url_has_the_same_status_with_tls,
    ),
    "proxy_set_header Host $http_host;": (
        test_tls.test_a_page_of_the_same_address_may_write_and_no_other,
    ),
    "proxy_set_header X-Forwarded-For $remote_addr;": (
        test_tls.test_limits_and_the_log_know_the_client_before_tls,
    ),
    "proxy_request_buffering off;": (
        test_tls.test_an_upload_of_some_megabytes_arrives_whole,
        test_tls.test_an_upload_reaches_the_server_while_it_is_being_sent,
    ),
    "# nor are answers written to the disk": (
        test_tls.test_a_large_answer_waits_for_its_client_and_not_on_the_disk,
    ),
    "# the next nginx gives up first": (test_tls.test_the_next_nginx_gives_up_first,),
    "and `http.public_url: https://img.example.org`": (
        test_uploads.test_urls_in_answers_begin_with_the_public_address,
        test_tls.test_a_page_of_the_same_address_may_write_and_no_other,
    ),
    "`nginx.trusted_proxies: 127.0.0.1`": (
        test_tls.test_limits_and_the_log_know_the_client_before_tls,
        test_tls.test_without_being_told_nginx_takes_all_for_one_client,
    ),
    "keepalive 64;": (test_tls.test_connections_between_the_two_are_kept,),
    "set_real_ip_from 192.0.2.0/24; real_ip_header X-Forwarded-For;": (
        test_tls.test_the_client_behind_a_cdn_is_known_and_none_is_invented,
    ),
    "where it comes to this server block for TLS put into it": (
        test_tls.test_the_client_behind_a_cdn_is_known_and_none_is_invented,
    ),
    # Your own directives
    "What `nginx.include` names is in the server block, before the locations": (
        test_include.test_a_header_of_ones_own_is_added_to_ours,
        test_include.test_a_location_of_ones_own_is_asked_before_the_server,
    ),
    "set $closed 0;": (
        test_include.test_writes_can_be_closed_to_all_but_a_network,
        test_include.test_reads_are_left_alone_where_writes_are_closed,
    ),
    'auth_basic "Images";': (test_include.test_everything_can_ask_for_a_password,),
    "this asks for a password for all, hits too": (
        test_include.test_everything_can_ask_for_a_password,
    ),
    "Answers still say `public`": (
        test_include.test_everything_can_ask_for_a_password,
    ),
    "`Vary: Accept` (on `.auto` alone)": (
        test_negotiation.test_only_what_depends_on_accept_says_so,
    ),
    "the header `Cache-Tag` or `Surrogate-Key` (`cache_tag` in `info.json`)": (
        test_images.test_every_answer_about_an_image_has_its_tag_for_caches_further_out,
        test_uploads.test_an_upload_is_stored_and_described,
        test_views.test_info_and_explanation_say_the_same_tags,
    ),
    # Watching it
    "The access log has one JSON object a line": (
        test_log.test_a_line_tells_who_asked_for_what_and_what_answered,
        test_log.test_whatever_comes_the_line_is_json,
    ),
    "path without its query (links are signed there)": (
        test_log.test_no_query_is_in_the_log,
    ),
    "`limit` where it was refused": (
        test_log.test_a_refusal_says_that_no_server_was_asked,
    ),
    "`server_seconds` until the server's answer began": (
        test_log.test_the_time_of_the_server_is_without_the_wait_in_nginxs_limits,
        test_log.test_only_an_answer_for_which_the_server_was_asked_has_its_time,
    ),
    "and which server": (
        test_log.test_of_several_servers_the_one_that_was_asked_is_named,
    ),
    "it has whole requests": (test_operation.test_the_error_log_has_whole_requests,),
    "image_repo cache-report /var/log/nginx/image_repo.access.log*": (
        test_operation.test_the_commands_for_watching_tell_of_what_was_asked,
    ),
    "| 502 | the server is away |": (
        test_hops.test_a_server_that_is_away_is_a_problem_in_json,
        test_several.test_servers_that_are_all_away_are_a_problem_in_json,
    ),
    "| 504 | it took longer than two deadlines of a worker and its store together |": (
        test_operation.test_who_takes_too_long_is_a_504_on_both_hops,
    ),
    "| 413 in nginx's words | more than the server's own limit by a megabyte |": (
        test_hops.test_uploads_are_streamed_and_the_server_judges_their_size,
        test_end_to_end.test_an_upload_that_is_too_large_is_refused_with_a_reason,
    ),
    "| 503 | too much that is new is asked for at once": (
        test_limits.test_all_clients_together_have_a_limit,
    ),
    "or the server's queue is full": (
        test_errors.test_a_full_queue_is_a_503_that_says_when_to_come_back,
        test_log.test_a_server_that_refuses_is_told_from_nginx,
    ),
    "503 and 429 say when to try again, and hits go on": LIMITED,
    "| 429 | one client asks for new images too fast, or sends or takes too much": (
        test_limits.test_a_client_that_asks_too_fast_waits_and_is_then_refused,
        test_limits.test_uploads_of_one_client_have_a_limit,
        test_limits.test_requests_of_one_client_for_all_below_a_path_have_a_limit,
    ),
    "| 400 for every new image | `behind_nginx` is not set |": (
        test_operation.test_a_server_that_knows_of_no_nginx_refuses_what_is_new,
    ),
    "| `MISS` every time | nginx's file is of another configuration": (
        test_end_to_end.test_nothing_is_kept_under_the_keys_of_another_configuration,
    ),
    "Debian's logrotate takes care of both": (
        test_set_up.test_debians_logrotate_takes_care_of_the_log,
        test_report.test_the_command_reads_several_logs_plain_and_compressed,
    ),
    "when `/readyz` is not 200": (
        test_on_swift.test_the_server_starts_without_keystone_and_says_so,
    ),
    "Of `data/originals` a copy may be made at any time": (
        test_disk.test_writers_killed_at_any_time_never_leave_half_an_object,
    ),
    # Before going live
    "- `nginx -t` and `image_repo --check`, as the server's user, pass": (
        test_nginx.test_nginx_and_gixy_find_nothing_wrong,
        test_running.test_a_running_nginx_takes_the_file_as_the_guide_writes_it,
    ),
    "A replaced image is new at once": PURGED,
    "The second fetch of an image says `X-Cache: HIT`": (
        test_end_to_end.test_a_second_request_is_answered_by_nginx_alone,
    ),
    "`trusted_proxies` names what is before nginx, if anything is, and nothing else": (
        test_limits.test_the_server_learns_the_clients_address_and_no_invented_one,
    ),
    "`http.public_url` is the address that clients use": (
        test_uploads.test_urls_in_answers_begin_with_the_public_address,
    ),
}
"""Words of the guide, and what shows that they are true."""

OF_ROOT = {
    "What may not be removed after all is refreshed",
    "As root it would find rights that the server does not have",
}
"""Claims about users, which only root can show; all others are shown everywhere."""

UNCLAIMED = {
    # Times: another machine has others, so that only a benchmark can tell them.
    "| a hit | about 35 µs",
    "| a plain query that hits |",
    "| another spelling |",
    "| a derivation, 12-megapixel JPEG",
    # It asks for something to be looked at, of which no configuration of ours decides.
    "- The server is not reachable around nginx",
    "- Writes are closed to strangers",
    # What it claims is in the rows below it.
    "These directives have no option",
}
"""How those pieces begin that claim nothing a test can show."""


@pytest.mark.parametrize("words", CLAIMS)
def test_each_claim_is_in_the_guide_and_shown_by_tests_that_are_run(words: str) -> None:
    assert words in guide.plain(guide.TEXT)
    for one in CLAIMS[words]:
        assert one.__name__.startswith("test_")
    everywhere = [
        one for one in CLAIMS[words] if not marks(one) & {"skip", "skipif", "xfail"}
    ]
    assert bool(everywhere) != (words in OF_ROOT)


def marks(one: Test) -> set[str]:
    """Return the names of what a test, or its whole module, is marked with."""
    module = one.__globals__.get("pytestmark", [])
    every = [
        *getattr(one, "pytestmark", []),
        *(module if isinstance(module, list) else [module]),
    ]
    return {mark.name for mark in every}


@pytest.mark.parametrize("piece", guide.pieces(), ids=lambda piece: piece[:40])
def test_each_piece_of_the_guide_claims_something_or_is_known_not_to(
    piece: str,
) -> None:
    claimed = any(words in piece for words in CLAIMS)
    known = [begins for begins in UNCLAIMED if piece.startswith(begins)]

    assert claimed != bool(known)


@pytest.mark.parametrize("begins", sorted(UNCLAIMED))
def test_what_claims_nothing_is_in_the_guide(begins: str) -> None:
    assert [piece for piece in guide.pieces() if piece.startswith(begins)]
