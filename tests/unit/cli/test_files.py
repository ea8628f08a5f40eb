"""Policy and directory files: every problem with its line and path, nothing read differently than written."""

from pathlib import Path

import pytest

from tokenomics_cli.directory import read_directory
from tokenomics_cli.documents import read_documents
from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.policy_files import read_policies

EXAMPLES = Path(__file__).parents[3] / "examples"

QUOTA = """\
kind: quota
version: 1
effective_from: 2026-01-01T00:00:00Z
document:
  time_zone: Europe/Berlin
  allowances:
    - role: engineer
      limit_micro_usd: 20_000_000
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


def problems(error: pytest.ExceptionInfo[CommandError]) -> list[tuple[int, str]]:
    assert error.value.exit_code is Exit.BAD_DATA
    return [(problem.line, problem.path) for problem in error.value.problems]


def test_plain_words_stay_text_and_numbers_numbers(file: Path) -> None:
    file.write_text("a: 12:30\nb: no\nc: 2026-11-01\nd: 1_000\ne: true\nf: 007\n")
    (document,) = read_documents(file)
    assert document.value == {"a": "12:30", "b": "no", "c": "2026-11-01", "d": 1000, "e": True, "f": "007"}


def test_the_example_directory_is_valid() -> None:
    assert read_directory(EXAMPLES / "directory.yaml")


def test_every_problem_of_a_policy_is_told_by_line_and_path(file: Path) -> None:
    wrong = QUOTA.replace("20_000_000", "20.5").replace("version: 1", "version: x")
    file.write_text(wrong + "  budgts: []\n")
    with pytest.raises(CommandError) as refused:
        read_policies(file)
    assert sorted(problems(refused)) == [
        (2, "version"),
        (8, "document.allowances.0.limit_micro_usd"),
        (9, "document.budgts"),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (QUOTA + "extra: 1\n", (9, "extra")),
        (QUOTA.replace("kind: quota", "kind: unheard_of"), (1, "kind")),
        (QUOTA.replace("effective_from: 2026-01-01T00:00:00Z\n", ""), (1, "effective_from")),
        (QUOTA + "version: 2\n", (9, "")),
        (QUOTA + "---\n" + QUOTA, (1, "kind")),
        (QUOTA.replace("kind: quota", "kind: [quota]"), (1, "kind")),
        ("- just\n- a list\n", (1, "")),
        ("a: [\n", (2, "")),
    ],
)
def test_a_policy_file_with_one_problem_names_it(file: Path, text: str, place: tuple[int, str]) -> None:
    file.write_text(text)
    with pytest.raises(CommandError) as refused:
        read_policies(file)
    assert place in problems(refused)


def test_files_are_published_together_and_their_problems_name_the_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(QUOTA)
    bad.write_text("kind: sources\nversion: 0\neffective_from: 2026-01-01T00:00:00Z\ndocument: {}\n")
    assert [each.policy.kind for each in read_policies(good)] == ["quota"]
    with pytest.raises(CommandError) as refused:
        read_policies(good, bad)
    (problem,) = refused.value.problems
    assert (problem.file, problem.line, problem.path) == (str(bad), 2, "version")
    with pytest.raises(CommandError) as repeated:
        read_policies(good, good)
    assert {each.path for each in repeated.value.problems} == {"kind"}


@pytest.mark.parametrize(
    "text",
    [
        "a: \0",
        "a: " + "9" * 5_000,
        "a: !!int ''",
        "a: !!bool maybe",
        "a: !!timestamp 2026-99-99",
        "a: &a [*a]",
        "a: !!python/object:os.system x",
        "? [1, 2]\n: 3",
        "[" * 5_000,
        "\n".join(
            ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
            + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
        ),
    ],
    ids=lambda text: text[:30],
)
def test_odd_yaml_is_refused_in_words(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(CommandError) as refused:
        read_documents(file)
    assert refused.value.exit_code is Exit.BAD_DATA


def test_every_problem_of_a_directory_is_told_by_line_and_path(file: Path) -> None:
    file.write_text(
        "effective_from: 2026-01-01T00:00:00Z\n"
        "people:\n"
        "  - person_id: p-1\n"
        "    role: engineer\n"
        "    team_id: team-1\n"
        "  - person_id: somebody@example.com\n"
        "    role: engineer\n"
        "    team_id: team-1\n"
        "  - person_id: p-1\n"
        "    role: support\n"
        "    team_id: team-1\n"
        "    nickname: x\n"
        "  - {person_id: p-1, role: support, team_id: team-1}\n"
        "teems: []\n"
    )
    with pytest.raises(CommandError) as refused:
        read_directory(file)
    assert sorted(problems(refused)) == [
        (6, "people.1.person_id"),
        (12, "people.2.nickname"),
        (13, "people.3"),
        (14, "teems"),
    ]


def test_directory_lines_name_their_type(tmp_path: Path) -> None:
    file = tmp_path / "directory.jsonl"
    file.write_text(
        '{"type":"person.left","person_id":"p-1","effective_from":"2026-01-01T00:00:00Z"}\n'
        '{"type":"person.promoted","person_id":"p-2","effective_from":"2026-01-01T00:00:00Z"}\n'
    )
    with pytest.raises(CommandError) as refused:
        read_directory(file)
    assert problems(refused) == [(2, "type")]
