"""The figures of the code, on a package whose lines can be counted by eye."""

from __future__ import annotations

from tools.measure import figures
from tools.site import behind, figures_page

FIRST = '''"""Doc."""

from package.second import Shown


def long(a: int, b: int) -> int:
    """Two lines of docstring,

    which do not count.
    """
    if a:
        return b
    return a


def _hidden(a):
    def inner(): ...
'''
SECOND = '''from package.first import long


class Shown:
    """Documented."""

    def method(self, a: int) -> None:
        """Documented too."""


class Bare: ...
'''


def measured(folder):
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text('"""Only a docstring: counts as a file, not in their lengths."""\n')
    (package / "first.py").write_text(FIRST)
    (package / "second.py").write_text(SECOND)
    return figures(package)


def test_figures_of_a_package_counted_by_hand(tmp_path):
    found = measured(tmp_path)
    assert (found.files, found.median_file, found.longest_file) == (3, (17 + 11) // 2, 17)
    # long: 8 lines less 4 of docstring; _hidden 2, inner 1, method 1
    assert (found.functions, found.median, found.percentile_90, found.longest) == (4, 1.5, 4, 4)
    # public: long and method, both typed; of long, method, Shown and Bare all but the last are documented
    assert (found.typed, found.documented, found.cycles) == (100, 75, 1)


def test_a_package_is_behind_in_the_columns_where_an_anchor_is_better(tmp_path):
    ours = measured(tmp_path)
    best = ours._replace(files=1, functions=999, longest=3, documented=90, typed=80)
    other = best._replace(longest=50)
    assert behind({"ours": ours}, {"best": best, "other": other}) == [
        ["longest function", "3 (best)", "ours 4"],
        ["documented %", "90 (best, other)", "ours 75"],
    ]


def test_our_packages_are_as_good_as_the_best_in_what_the_page_says():
    page = figures_page().split("## Behind")[1]
    for title in ("90th percentile", "longest function", "typed %", "documented %", "import cycles"):
        assert f"| {title} |" not in page, title
