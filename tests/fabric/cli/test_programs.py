"""Programs that a topology names and that are not there: found before anything starts."""

from pathlib import Path

import pytest

from fabric.cli import main

TOPOLOGY = """
venues: {V: {}}
feeds: {iex: {wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:5490"]}}
shards: [A-M, N-Z 0-9]
processors: {nbbo: {run: "%s", reads: [quote], publishes: [nbbo]}}
"""


@pytest.mark.parametrize("command", [["check"], ["check", "--json"], ["up", "--for", "1s"]])
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("nodes.nope:main", "'nodes.nope:main': no module 'nodes.nope'"),
        ("no_such.place:main", "'no_such.place:main': no module 'no_such'"),
        ("nodes.nbbo:mian", "nodes/nbbo.py has no 'mian'; did you mean 'main'?"),
        ("nodes.nbbo:what", "nodes/nbbo.py has no 'what'"),
    ],
)
def test_a_program_that_is_not_there_is_a_mistake_in_the_topology(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], program: str, said: str
) -> None:
    """One line, though two shards would run it; nothing is started."""
    file = tmp_path / "t.yaml"
    file.write_text(TOPOLOGY % program)
    assert main.run([command[0], str(file), *command[1:]]) == 2
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count(said) == 1
    assert f"{file}: node 'nbbo-1': run: " in shown.out + shown.err
    assert list(tmp_path.iterdir()) == [file]


def test_the_programs_of_this_clone_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["check", str(Path(__file__).parents[3] / "topology.yaml")]) == 0
