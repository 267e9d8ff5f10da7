"""The log of mining's trial: every row that was wrong or rough, and the tests that hold it right, run by one command.

    python benchmarks/mining_log.py [ROW ...]

The trial took the bugs that other programs' users report (frame numbers, seeks, containers, colours, cuts, lists,
resuming) and tried each on files whose frames carry their own numbers. Tests make such files themselves. A row is
right when all its tests pass, on whatever parameters; a test that was skipped names what it lacks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
DECODE, CLIPS, RUNS = "test_decode", "test_mine_clips", "test_mine_runs"
LAYOUTS, LEROBOT, IMPORT = "test_layouts", "test_lerobot", "test_import"
LOG: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "B1": (
        "annotate skips clips that arrived later",
        (("test_annotate", "test_only_what_is_new_or_changed_is_labelled"),),
    ),
    "B2": (
        "annotate keeps another model's labels",
        (("test_annotate", "test_the_same_name_with_other_weights_is_another_model"),),
    ),
    "B3": ("import never reads again", ((IMPORT, "test_import_reads_what_is_new_or_changed_and_nothing_twice"),)),
    "B4": (
        "segments where the clock does not begin at 0",
        ((DECODE, "test_segments_are_the_frames_on_screen_whatever_the_container"),),
    ),
    "B5": ("a seek that lands late", ((DECODE, "test_segments_are_the_frames_on_screen_whatever_the_container"),)),
    "B6": (
        "frame numbers at a variable frame rate",
        ((DECODE, "test_segments_are_the_frames_on_screen_whatever_the_container"),),
    ),
    "B7": (
        "a segment that ends in rest or past the end",
        ((DECODE, "test_a_segment_that_ends_in_rest_or_past_the_end_keeps_what_is_there"),),
    ),
    "B8": (
        "mirrored display matrices",
        (
            (DECODE, "test_display_matrices_turn_and_mirror"),
            (DECODE, "test_a_mirrored_matrix_in_a_file_is_followed"),
        ),
    ),
    "B9": ("equal names in class folders", ((RUNS, "test_any_file_name_and_linked_folders_are_mined"),)),
    "B10": ("a listed clip that arrives later", ((LAYOUTS, "test_a_bad_or_repeated_row_of_a_list_is_counted"),)),
    "B11": ("the stream that players choose", ((DECODE, "test_the_stream_that_players_choose_is_mined"),)),
    "B12": (
        "length without the rest at the end",
        ((DECODE, "test_the_length_of_a_clip_counts_its_rest_and_time_stamps_may_be_negative"),),
    ),
    "B13": ("two rows of one id", ((IMPORT, "test_of_several_items_with_one_id_the_first_counts"),)),
    "B14": ("colours of HD, tagged or not", ((DECODE, "test_untagged_colours_are_those_of_the_size"),)),
    "L1": (
        "a file that changed stops the run",
        ((RUNS, "test_what_changed_or_arrived_is_mined_anew_and_nothing_else"),),
    ),
    "L2": ("a folder that cannot be opened stops it", ((RUNS, "test_folders_that_are_hidden_or_closed_stop_nothing"),)),
    "L3": (
        "bad or repeated rows, other dialects",
        (
            (LAYOUTS, "test_a_bad_or_repeated_row_of_a_list_is_counted"),
            (LAYOUTS, "test_lists_come_in_other_dialects"),
        ),
    ),
    "L4": ("hidden folders are mined", ((RUNS, "test_folders_that_are_hidden_or_closed_stop_nothing"),)),
    "L5": (
        "oblong pixels, interlaced frames",
        (
            (DECODE, "test_oblong_pixels_are_made_square"),
            (DECODE, "test_interlaced_frames_are_shown_without_their_comb"),
        ),
    ),
    "L6": ("untagged HD", ((DECODE, "test_untagged_colours_are_those_of_the_size"),)),
    "L7": (
        "one clock for times",
        (
            (DECODE, "test_a_video_that_begins_after_its_sound_keeps_the_players_clock"),
            (DECODE, "test_a_file_without_time_stamps_is_counted_from_its_first_frame"),
        ),
    ),
    "L8": ("workers of Ray are not bounded", ((RUNS, "test_ray_mines_in_as_many_workers_as_asked"),)),
    "C1": (
        "cuts in a frame that never changes",
        ((CLIPS, "test_cuts_inside_a_patterned_frame_that_never_changes_are_found"),),
    ),
    "C2": ("flicker and noise", ((CLIPS, "test_what_flickers_or_is_noise_is_no_cut_and_gives_pairs"),)),
    "G1": (
        "few pairs of a long video",
        (
            (RUNS, "test_a_long_video_is_cut_into_windows_that_resume"),
            (CLIPS, "test_windows_side_by_side_that_overlap_and_of_all_shots"),
        ),
    ),
    "G5": (
        "LeRobot v2, cameras",
        (
            (LEROBOT, "test_lerobot_v2_has_a_file_for_each_episode"),
            (LEROBOT, "test_lerobot_cameras_are_chosen_and_may_be_several"),
        ),
    ),
    "G6": (
        "PQ and HLG, size of stored images",
        ((DECODE, "test_high_dynamic_range_becomes_standard"), (DECODE, "test_stored_images_are_as_large_as_asked")),
    ),
    "G7": (
        "near-duplicates, some clips of many",
        (
            (RUNS, "test_clips_that_show_the_same_are_found_and_can_be_left_out"),
            (RUNS, "test_some_clips_are_the_first_by_name_or_a_sample_that_a_seed_fixes"),
        ),
    ),
    "24": (
        "labels with placeholders",
        ((LAYOUTS, "test_labels_with_placeholders_are_filled_or_counted_and_hidden_folders_left_out"),),
    ),
    "memory": ("results that memory decides", ((CLIPS, "test_motion_does_not_depend_on_where_arrays_lie_in_memory"),)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(LOG)}; all by default")
    rows = parser.parse_args().rows or list(LOG)
    if unknown := [row for row in rows if row not in LOG]:
        parser.error(f"there is no row {unknown[0]}")
    verdicts = run(sorted({test for row in rows for test in LOG[row][1]}))
    wrong = 0
    print("| row | what | tests | verdict |\n|---|---|---:|---|")
    for row in rows:
        what, tests = LOG[row]
        found = [verdict for test in tests for verdict in verdicts.get(test, ["not found"])]
        said = "right" if set(found) == {"right"} else ", ".join(sorted(set(found) - {"right"}))
        wrong += said != "right"
        print(f"| {row} | {what} | {len(found)} | {said} |")
    print(f"{len(rows) - wrong} of {len(rows)} rows right")
    return int(wrong > 0)


def run(tests: list[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """Of each test what became of it, for each of its parameters."""
    names = [f"tests/{module}.py::{test}" for module, test in tests]
    verdicts: dict[tuple[str, str], list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", f"--junit-xml={report}", *names]
        subprocess.run(command, cwd=ROOT, check=False, stdout=sys.stderr)
        for case in ElementTree.parse(report).iter("testcase"):
            key = case.attrib["classname"].rpartition(".")[2], case.attrib["name"].partition("[")[0]
            bad = {"failure": "wrong", "error": "wrong", "skipped": "skipped"}
            verdict = next((bad[child.tag] for child in case if child.tag in bad), "right")
            verdicts.setdefault(key, []).append(verdict)
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
