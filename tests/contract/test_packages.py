"""Every test module is found under a name of its own: of two with one name only one would be read."""

from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {folder for file in TESTS.rglob("test_*.py") for folder in file.parents}
    of_tests = {folder for folder in folders if folder == TESTS or TESTS in folder.parents}
    assert [folder for folder in sorted(of_tests) if not (folder / "__init__.py").is_file()] == []
