"""Progress where no terminal is: lines that tell of every stage, and of the time that is left."""

import io
import time

from rich.console import Console

from hagd_jax.report.progress import WORDS, Bars, Lines, bars


def console():
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def printed(where):
    return where.file.getvalue().splitlines()


def test_a_stage_begins_reports_and_ends():
    where, now = console(), [100.0]
    lines = Lines(where, lambda: now[0])
    lines.update("transcoder", 0, 400)
    now[0] += 30
    lines.update("transcoder", 100, 400)
    lines.report()
    now[0] += 90
    lines.update("transcoder", 400, 400)
    lines.update("transcoder", 400, 400)
    lines.report()
    assert printed(where) == [
        "Training features: begins",
        # A quarter took half a minute.
        "Training features: 100 of 400 after 0:00:30, about 0:01:30 left",
        "Training features: done in 0:02:00",
    ]


def test_a_resumed_stage_counts_from_where_it_was():
    where, now = console(), [0.0]
    lines = Lines(where, lambda: now[0])
    lines.update("masks", 900, 1000)
    lines.report()
    now[0] += 60
    lines.update("masks", 950, 1000)
    lines.report()
    lines.finish("masks")
    lines.finish("masks")
    assert printed(where) == [
        "Training masks: begins, 900 of 1,000 are done",
        "Training masks: 900 of 1,000 after 0:00:00",
        "Training masks: 950 of 1,000 after 0:01:00, about 0:01:00 left",
        "Training masks: done in 0:01:00",
    ]


def test_every_stage_has_its_lines_and_words_are_printed_as_they_are():
    where = console()
    with bars(where) as progress:
        for stage in WORDS:
            progress.update(stage, 1, 2)
            progress.update(stage, 2, 2)
        progress.say("[bold]a note of more than forty characters, as it is")
    lines = printed(where)
    for words in WORDS.values():
        assert sum(line.startswith(f"{words}: ") for line in lines) == 2
    assert lines[-1] == "[bold]a note of more than forty characters, as it is"


def test_a_step_that_takes_long_is_reported_too():
    where = console()
    with bars(where, every=0.01) as progress:
        progress.update("judge", 0, 3)
        deadline = time.monotonic() + 10
        while len(printed(where)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert printed(where)[1] == "Testing the circuit: 0 of 3 after 0:00:00"
    count = len(printed(where))
    time.sleep(0.05)
    assert len(printed(where)) == count


def test_a_console_that_cannot_be_written_to_stops_nothing():
    where = console()
    where.file.close()
    with bars(where) as progress:
        progress.update("judge", 0, 3)
        progress.finish("judge")


def test_a_terminal_has_bars():
    where = Console(file=io.StringIO(), force_terminal=True, width=80)
    with bars(where) as progress:
        progress.update("judge", 1, 3)
        assert type(progress) is Bars
    assert "1/3" in where.file.getvalue()


def test_steps_that_differ_promise_no_time():
    where, now = console(), [0.0]
    lines = Lines(where, lambda: now[0])
    lines.update("judge", 0, 3)
    now[0] += 60
    lines.update("judge", 1, 3)
    lines.report()
    assert printed(where)[-1] == "Testing the circuit: 1 of 3 after 0:01:00"
    bar = Console(file=io.StringIO(), force_terminal=True, width=80)
    with bars(bar) as progress:
        progress.update("judge", 1, 3)
        assert "left" not in bar.file.getvalue()
        progress.update("masks", 1, 3)
    assert "left" in bar.file.getvalue()
