"""What once went wrong, kind by kind, and the tests that would fail were it back: a part of `docs/promises.md`.

Names of tests as pytest has them; a whole file where all of it is about the kind.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_STOPS = "tests/runtime/test_run.py::TestRay::test_a_signal_commits_what_is_done_and_leaves_nothing_running"
_RAY = "tests/runtime/test_ray_itself.py::"
_FILES = "tests/core/test_output_files.py::"
_REDACTION = "tests/core/test_redaction.py::"
_GREETING = "tests/sources/test_rtsp_greeting.py::"
_LIST = "tests/settings/test_stream_list.py::"
_SEGMENTS = "tests/store/test_hostile_segments.py::"
_STORES = "tests/store/test_hostile_stores.py::"
_ODD_STATES = "tests/store/test_odd_states.py::"
_INPUTS = "tests/sources/test_inputs.py::"
_HEALTH = "tests/serving/test_health.py::"
_SETTINGS = "tests/settings/test_hostile_settings.py::"
_LOST = "tests/sources/test_lost_pictures.py::"
_SQL = "tests/query/test_sql.py::"
_YAML = "tests/sca/test_yaml_files.py::"
_PICTURES = "tests/sources/test_hostile_pictures.py::"
_LEAVING = "tests/core/test_leaving.py::"
_BROADCASTS = "tests/sources/test_broadcasts.py::"
_PREPARATION = "tests/engines/test_preparation.py::"


@dataclass(frozen=True, slots=True)
class MendedKind:
    """`text`: what happened, as somebody saw it who used the program."""

    text: str
    tests: tuple[str, ...]


KINDS = (
    MendedKind(
        "Of a playlist that nobody continued, the last seconds were stored again every half minute, as if they were happening; after a moment without the server they came twice",
        (_BROADCASTS + "test_what_was_shown_is_not_shown_again_when_it_is_connected_to_again",),
    ),
    MendedKind(
        "A live playlist that its server failed to give ended a stream without an error where only errors are followed by another try",
        (_BROADCASTS + "test_what_was_shown_is_not_shown_again_when_it_is_connected_to_again",),
    ),
    MendedKind(
        "A picture of each segment was told as damaged where a packager counts packets from 0 in each",
        (_BROADCASTS + "test_what_was_shown_is_not_shown_again_when_it_is_connected_to_again",),
    ),
    MendedKind(
        "Segments that were late were stored as if they had come in time where a damaged picture came first",
        (_BROADCASTS + "test_a_damaged_picture_hides_no_pause",),
    ),
    MendedKind(
        "Behind stamps that leapt, most segments of a live playlist expired while each leap was waited out, for ever",
        (_BROADCASTS + "test_stamps_that_leap_are_not_waited_for_again_and_again",),
    ),
    MendedKind("`kill PID` of a run on Ray aborted after three seconds with a native stack", (_STOPS,)),
    MendedKind(
        "SIGTERM while Ray was starting ended the program in Ray's way, or aborted it",
        (
            _RAY + "test_sigterm_while_ray_starts_is_a_first_ctrl_c",
            _RAY + "test_sigterm_while_ray_connects_is_ours",
        ),
    ),
    MendedKind(
        "A signal that came twice, as `timeout` sends it, broke a run off before its last rows were stored",
        (_STOPS, _LEAVING + "test_a_second_wish_breaks_off_and_an_echo_of_the_first_does_not"),
    ),
    MendedKind(
        "`sca query --like` loaded torch, for 1.3 GiB and twelve seconds of a processor",
        (_PREPARATION + "test_a_picture_is_looked_for_by_the_engines_of_the_run_without_torch",),
    ),
    MendedKind("SIGHUP, a closed terminal, lost rows that were not yet committed", (_STOPS,)),
    MendedKind(
        "SIGTERM left half-written files of other commands, and what they had started",
        (
            _LEAVING + "test_sigterm_ends_any_command_as_ctrl_c_does",
            _LEAVING + "test_the_command_line_sets_it_up_before_anything_else",
        ),
    ),
    MendedKind(
        "A signal that came while Python put something away printed a traceback, and the command went on",
        (_LEAVING + "test_a_signal_while_something_is_put_away_is_not_lost",),
    ),
    MendedKind(
        "Signals of a terminal that closes, five in a row, broke off the end of a command, and the process that built its engines stayed",
        (_LEAVING + "test_signals_that_come_in_a_row_break_off_nothing_that_is_put_away",),
    ),
    MendedKind(
        "An export to a device replaced the device by a file",
        (
            _FILES + "test_a_device_stays_a_device",
            _FILES + "test_a_device_of_ones_own_stays_one_for_root_too",
        ),
    ),
    MendedKind("So it did with FIFOs and sockets", (_FILES + "test_a_fifo_and_a_socket_are_written_to",)),
    MendedKind("So it did with links", (_FILES + "test_a_link_stays_and_its_target_is_replaced",)),
    MendedKind("An output of mode 0600 became 0644", (_FILES + "test_the_mode_stays",)),
    MendedKind(
        "Passwords in paths, in queries of any name and behind an unescaped `/`, `?` or `'` were stored and shown",
        (
            _REDACTION + "test_nothing_that_is_made_of_an_address_holds_its_secret",
            _REDACTION + "test_no_part_of_a_secret_that_could_tell_it_survives",
            "tests/runtime/test_live_run.py::test_no_password_gets_into_store_logs_metrics_titles_or_output",
        ),
    ),
    MendedKind(
        "They were made into names of streams and folders",
        (
            _REDACTION + "test_nothing_that_is_made_of_an_address_holds_its_secret",
            _REDACTION + "test_no_part_of_a_secret_that_could_tell_it_survives",
        ),
    ),
    MendedKind(
        "Passwords of mistyped addresses (`user:password@host`, `rtsp//host`), and those that HTTP hands on, were shown",
        (_REDACTION + "test_what_was_meant_to_be_an_address_holds_no_secret_either",),
    ),
    MendedKind(
        "A camera's redirect handed the password to another host",
        (
            _GREETING + "test_a_password_goes_to_no_other_host",
            _GREETING + "test_the_same_host_gets_it_at_another_place_and_others_get_the_question_alone",
            "tests/sources/test_web_films.py::test_another_host_that_a_server_leads_to_gets_no_password",
        ),
    ),
    MendedKind(
        "A redirect to itself made a thousand connections in five seconds",
        (_GREETING + "test_a_circle_is_left_after_a_few_rounds",),
    ),
    MendedKind(
        "One refusal ended a stream for ever, although the password had been accepted before",
        (
            "tests/sources/test_rtsp_source.py::test_a_password_that_was_accepted_before_is_tried_again_seldom",
            "tests/sources/test_clocks.py::test_a_password_is_tried_again_only_where_it_was_accepted_and_seldom",
        ),
    ),
    MendedKind(
        "Of eight new cameras seven were down, and nothing was recorded",
        (
            "tests/runtime/test_away_cameras.py::test_seven_of_eight_are_down_and_the_eighth_is_planned_at_once",
        ),
    ),
    MendedKind(
        "Ray's raylet died, nothing was recorded for minutes, and `/healthz` said 200",
        (
            _RAY + "test_on_loopback_in_a_folder_of_its_own_and_its_death_ends_a_run_that_may_not_restart",
            _RAY + "test_a_run_goes_on_with_a_new_ray_when_its_own_was_killed",
            _RAY + "test_who_is_too_slow_for_a_while_is_not_dead_and_who_listens_nowhere_is",
        ),
    ),
    MendedKind(
        "Ray's head (GCS) died, and a line of C++ ended the run after a minute",
        (
            _RAY + "test_on_loopback_in_a_folder_of_its_own_and_its_death_ends_a_run_that_may_not_restart",
            _RAY + "test_a_run_goes_on_with_a_new_ray_when_its_own_was_killed",
            "tests/runtime/test_driver.py::test_the_whole_cluster_may_die_at_any_moment",
        ),
    ),
    MendedKind(
        "A checkpoint's tokenizer could ask to run its code, and `y` ran it",
        ("tests/sca/test_checkpoints.py::test_a_tokenizer_that_brings_code_is_refused_and_nobody_is_asked",),
    ),
    MendedKind(
        "A checkpoint's configuration could ask for any size, or be of any type, and end in a traceback",
        (
            "tests/sca/test_hostile_checkpoints.py::test_a_configuration_that_nobody_could_have_written_is_refused",
        ),
    ),
    MendedKind(
        "A configuration within every bound still asked for gigabytes, or minutes, of building; the released layout had no bounds",
        (
            "tests/sca/test_hostile_checkpoints.py::test_a_configuration_that_nobody_could_have_written_is_refused",
            "tests/sca/test_hostile_checkpoints.py::test_so_is_one_in_the_released_layout",
            "tests/sca/test_hostile_checkpoints.py::test_a_file_that_is_larger_than_its_model_is_not_read",
        ),
    ),
    MendedKind(
        "A store that was removed while a run wrote to it was told as a file that is missing; one in its place was written into",
        ("tests/store/test_commit.py::test_a_store_that_goes_while_it_is_written_is_told_and_not_made_anew",),
    ),
    MendedKind(
        "A token in the place of a user name, before a host or a plain name without a scheme, was shown",
        (_REDACTION + "test_what_was_meant_to_be_an_address_holds_no_secret_either",),
    ),
    MendedKind(
        "Half requests took a thread each until no file could be opened; the metrics port knew no time limit",
        (_HEALTH + "test_half_requests_are_bounded_and_keep_nobody_out",),
    ),
    MendedKind(
        "A statement of `--sql` took 3.9 GiB for one value; a bar of DuckDB's was drawn among the rows of one that took long",
        (_SQL + "test_no_statement_fills_the_memory", _SQL + "test_a_row_that_nobody_could_read_is_refused"),
    ),
    MendedKind(
        "Dates beyond the calendar of Python, and statements that are not UTF-8, ended `--sql` in a traceback",
        (_SQL + "test_values_that_python_cannot_hold_are_told",),
    ),
    MendedKind(
        "600 bytes that said they were a film of 16,000 pixels a side took more than a gibibyte to be refused",
        (_PICTURES + "test_a_film_that_says_it_is_huge_is_refused_before_a_picture_is_made",),
    ),
    MendedKind(
        "A TIFF of 60,000 pages took minutes to open, a GIF of 64 megapixels gigabytes",
        (_PICTURES + "test_thousands_of_pages_and_pictures_that_move_are_bounded",),
    ),
    MendedKind(
        "Of a key that stood twice in a list the last was taken, and a camera was not recorded, without a word; faults in YAML quoted what stood there",
        (_YAML + "test_hostile_yaml_is_refused",),
    ),
    MendedKind(
        "A header of a scrape's printed a traceback in a run's terminal, and was answered with 500",
        (_HEALTH + "test_no_request_makes_an_error_of_ours_or_a_line_on_the_terminal",),
    ),
    MendedKind(
        "600 bytes of YAML aliases ate the memory",
        ("tests/sca/test_yaml_files.py::test_hostile_yaml_is_refused",),
    ),
    MendedKind(
        "Errors about settings printed their values, a password among them",
        (
            _LIST + "test_a_broken_file_tells_its_line_and_never_its_text",
            _SETTINGS + "test_a_stream_list_of_anything_is_read_or_refused_in_one_line",
            _SETTINGS + "test_any_address_can_be_tried_or_is_refused_and_not_repeated",
        ),
    ),
    MendedKind(
        "A stream list from elsewhere sent the first line of any file, or any variable, to any host",
        (
            _LIST + "test_a_list_hands_no_file_on_but_its_own_credentials",
            _LIST + "test_a_list_hands_no_variable_on_that_is_not_for_cameras",
        ),
    ),
    MendedKind(
        "A chunk of a segment that says it unpacks to 2 GiB hung",
        (_SEGMENTS + "test_a_chunk_that_says_it_unpacks_to_gigabytes_is_refused_before_it_does",),
    ),
    MendedKind(
        "Heads of a terabyte ended in MemoryError, other lies in tracebacks",
        (_SEGMENTS + "test_metadata_that_lie_are_borne", _SEGMENTS + "test_bytes_that_changed_are_borne"),
    ),
    MendedKind(
        "JSON of another kind, or nested without end, in place of a store's own ended in tracebacks",
        (
            _STORES + "test_any_json_in_place_of_what_a_store_is_told_by_is_borne",
            _STORES + "test_attributes_of_any_kind_are_borne",
        ),
    ),
    MendedKind(
        "A store waited for itself for ever where garbage was collected at the wrong moment",
        (
            "tests/store/test_decoded_cache.py::test_a_file_that_is_collected_while_the_cache_is_at_work_stops_nobody",
        ),
    ),
    MendedKind(
        "What was erased stayed readable where the claims of writers were lost: older files outranked what was written anew",
        (_ODD_STATES + "test_what_is_written_anew_wins_where_all_claims_are_lost",),
    ),
    MendedKind(
        "What a merge or an archive was made from was deleted although nobody could read the merge",
        (_ODD_STATES + "test_what_was_merged_stays_while_the_merge_cannot_be_read",),
    ),
    MendedKind(
        "New commits got the numbers of lost ones: a feed passed them by, and files that were put back did not count",
        (
            _ODD_STATES + "test_a_feed_misses_nothing_where_the_newest_files_are_gone_or_set_aside",
            _ODD_STATES + "test_files_that_are_put_back_count_though_another_writer_went_on",
        ),
    ),
    MendedKind(
        "A clock that was years ahead at the start made a store forget everything",
        (_ODD_STATES + "test_a_clock_that_is_years_ahead_forgets_nothing_until_something_newer_is_stored",),
    ),
    MendedKind(
        "`sca store repair` wrote over what it had set aside before, and fell over links",
        (_ODD_STATES + "test_repair_keeps_what_was_set_aside_before_and_follows_links",),
    ),
    MendedKind(
        "`sca run CAM | head -1` ended the run",
        ("tests/runtime/test_run.py::test_a_run_goes_on_when_nobody_reads_what_it_says",),
    ),
    MendedKind(
        "A name was refused after fifteen seconds of loading",
        (
            _INPUTS
            + "test_a_chosen_name_may_be_of_any_script_and_a_bad_one_is_refused_before_anything_is_made",
            "tests/commands/test_early_refusals.py::test_what_is_wrong_is_told_before_anything_is_loaded",
        ),
    ),
    MendedKind(
        "A clock that was set made outages that never were",
        (
            "tests/runtime/test_stepped_clock.py::test_setting_the_clock_makes_no_outage",
            "tests/sources/test_clocks.py::test_a_clock_that_is_set_makes_no_gap",
        ),
    ),
    MendedKind(
        "Escape sequences in names and captions reached the terminal",
        (
            "tests/commands/test_hostile_text.py::test_a_table_shows_what_a_terminal_would_obey",
            "tests/core/test_shown_text.py::test_nothing_that_is_shown_acts_and_the_rest_stays",
        ),
    ),
    MendedKind(
        "Captions became formulas of a spreadsheet",
        ("tests/core/test_shown_text.py::test_a_csv_cell_is_text_for_every_spreadsheet",),
    ),
    MendedKind(
        "Captions became markup of subtitles",
        ("tests/export/test_subtitles.py::test_a_player_shows_what_was_said_and_obeys_none_of_it",),
    ),
    MendedKind(
        '`sca run "$UNSET"` took every video of the folder',
        (_INPUTS + "test_what_cannot_be_read_is_one_error_without_secrets",),
    ),
    MendedKind(
        "`RTSP://` was let in and failed",
        (_INPUTS + "test_what_was_typed_is_read_as_a_path_or_an_address",),
    ),
    MendedKind(
        "`srt://`, which FFmpeg may lack, was let in and failed",
        (_SETTINGS + "test_a_network_that_nothing_here_speaks_is_refused_before_anything_is_loaded",),
    ),
    MendedKind("`--metrics-address ::1` failed", (_HEALTH + "test_it_listens_on_ipv6",)),
    MendedKind(
        "Pictures whose time stamps stood still were lost, and nobody counted them",
        (_LOST + "test_pictures_whose_stamps_stand_still_are_a_gap_with_their_number",),
    ),
    MendedKind(
        "So were those whose time stamps went back",
        (_LOST + "test_every_picture_is_shown_dropped_or_counted",),
    ),
    MendedKind(
        "Ray listened on all addresses, and its monitor without a token",
        (_RAY + "test_on_loopback_in_a_folder_of_its_own_and_its_death_ends_a_run_that_may_not_restart",),
    ),
    MendedKind(
        "Ray left half a megabyte in /tmp/ray with each start, in folders that all could write to, and a token that all could read",
        (
            _RAY + "test_on_loopback_in_a_folder_of_its_own_and_its_death_ends_a_run_that_may_not_restart",
            _RAY + "test_files_lie_in_the_state_directory_and_sockets_have_short_paths",
            _RAY + "test_what_killed_runs_left_behind_goes_and_what_is_in_use_stays",
        ),
    ),
)


def table() -> Iterator[str]:
    """The lines of the page."""
    yield "| what happened | the test that would tell |"
    yield "|---|---|"
    for kind in KINDS:
        text = kind.text.replace("|", "\\|")
        yield f"| {text} | {', '.join(f'`{test}`' for test in kind.tests)} |"


def absent() -> list[str]:
    """Tests that are named and are not there; read from the sources, so nothing of them is imported."""
    named = sorted({test for kind in KINDS for test in kind.tests})
    return [test for test in named if not _is_there(*test.split("::"))]


def _is_there(file: str, *path: str) -> bool:
    if not (ROOT / file).is_file():
        return False
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for name in path:
        found = [s for s in body if isinstance(s, ast.FunctionDef | ast.ClassDef) and s.name == name]
        if not found:
            return False
        body = found[0].body
    return True
