# SPDX-License-Identifier: Apache-2.0
"""Order of the places where data sets are looked for."""

import pytest

from core import datasets


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A pretended checkout, two folders below tmp_path, without any data set near it."""
    root = tmp_path / "work" / "checkout"
    (root / "core").mkdir(parents=True)
    (root / "pyproject.toml").write_text("")
    monkeypatch.setattr(datasets, "__file__", str(root / "core" / "datasets.py"))
    monkeypatch.delenv(datasets.ENVIRONMENT_VARIABLE, raising=False)
    return root


def test_folder_beside_the_checkout_comes_before_the_one_inside(checkout):
    inside = checkout / "shared" / "data" / "letters"
    inside.mkdir(parents=True)
    assert datasets.find_dataset("letters") == inside
    beside = checkout.parent / "shared" / "data" / "letters"
    beside.mkdir(parents=True)
    assert datasets.find_dataset("letters") == beside


def test_environment_variable_is_the_only_place_once_set(checkout, tmp_path, monkeypatch):
    (checkout / "shared" / "data" / "letters").mkdir(parents=True)
    monkeypatch.setenv(datasets.ENVIRONMENT_VARIABLE, str(tmp_path / "mine"))
    with pytest.raises(FileNotFoundError, match=r"'letters' not found; looked in: .*mine"):
        datasets.find_dataset("letters")
    (tmp_path / "mine" / "letters").mkdir(parents=True)
    assert datasets.find_dataset("letters") == tmp_path / "mine" / "letters"


def test_installed_packages_are_found_without_importing_them(checkout, tmp_path, monkeypatch):
    package = tmp_path / "site" / "pyrwkv_tokenizer"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.setitem(datasets._INSTALLED, "words", (("pyrwkv_tokenizer", "vocabulary.txt"),))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(FileNotFoundError):
        datasets.find_dataset("words")
    (package / "vocabulary.txt").write_text("a")
    assert datasets.find_dataset("words") == package


def test_no_checkout_no_relative_places(tmp_path, monkeypatch):
    (tmp_path / "shared" / "data" / "letters").mkdir(parents=True)
    monkeypatch.setattr(datasets, "__file__", str(tmp_path / "core" / "datasets.py"))
    monkeypatch.delenv(datasets.ENVIRONMENT_VARIABLE, raising=False)
    with pytest.raises(FileNotFoundError, match="Set RWKVJAX_DATA"):
        datasets.find_dataset("letters")


@pytest.mark.parametrize("name", ["", "../etc", "a/b", "/etc", ".", "..", "a\0b"])
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(ValueError, match="plain folder name"):
        datasets.find_dataset(name)
