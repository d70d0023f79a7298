"""Which images belong together, told by their names without endings, as many tools and archives write them."""

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator

# The last word of a name, as in 0_12_sr.png, or the first, as in HR_0001.png, that says which image of a pair it is.
ROLES = {
    "sr": {"sr", "out", "output", "result", "rlt", "pred"},
    "hr": {"hr", "gt", "target", "truth"},
    "lr": {"lr", "lq", "input"},
}
# What a name ends in: a factor, which may follow without a break, or else a word after one. After a factor, DIV2K has a
# letter for how the image was made worse, and of the wild ones a number: x4m, x4d, x4w, x4w1.
FACTOR = re.compile(
    r"(?P<rest>.*[^_\-. /])[_\-. ]*(?P<word>x(?P<factor>\d{1,2})(?:[dmw]\d?)?)", re.IGNORECASE | re.DOTALL
)
WORD = re.compile(r"(?P<rest>.*[^_\-. /])[_\-. ]+(?P<word>[^_\-. /]+)", re.DOTALL)
FIRST = re.compile(r"(?P<folder>(?:.*/)?)(?P<word>[^_\-. /]+)[_\-. ]+(?P<rest>[^_\-. /][^/]*)", re.DOTALL)


class TrueNames:
    """The names of true images, to find those that the name of another image belongs to."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)
        self.shorter: defaultdict[str, list[str]] = defaultdict(list)
        self.without_role: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(self.names):
            names = [name, *shortened(name, ROLES["hr"])]
            for short in names[1:]:
                self.shorter[short].append(name)
            for short in {*names, *(without_role(short, ROLES["hr"]) for short in names)}:
                self.without_role[short].append(name)

    def of(self, name: str) -> list[str]:
        """The nearest: those that are `name`, or become it without their last words, or likewise of `name` without its
        last words. Only where there are none, those for which first words that say a role are left out as well."""
        names = [name, *shortened(name)]
        equal = next(([short] for short in names if short in self.names), [])
        nearest = equal or next((self.shorter[short] for short in names if short in self.shorter), [])
        bare = (each for short in names for each in (short, without_role(short)))
        return nearest or next((self.without_role[short] for short in bare if short in self.without_role), [])


def shortened(stem: str, words: Iterable[str] | None = None) -> Iterator[str]:
    """A name without its last word, without its last two, ..., as far as these are no numbers: img_1x4_out -> img_1x4,
    img_1. A factor such as x4 is a word; of the others, only these `words` are left out, or any without them."""
    while match := FACTOR.fullmatch(stem) or WORD.fullmatch(stem):
        stem, word = match["rest"], match["word"].lower()
        if word.isdecimal() or (words is not None and match.re is WORD and word not in words):
            return
        yield stem


def without_role(name: str, words: Container[str] = frozenset().union(*ROLES.values())) -> str:
    """A name without its first word, where that is one of these: HR_0001 -> 0001."""
    match = FIRST.fullmatch(name)
    return match["folder"] + match["rest"] if match and match["word"].lower() in words else name


def factor_in(name: str, other: str) -> int | None:
    """The factor among the words at the end of a name that another, to which it belongs, has not: 4 of 0001_x4_LR and
    0001_HR."""
    while match := FACTOR.fullmatch(name) or WORD.fullmatch(name):
        if other.startswith(name) or without_role(other).startswith(without_role(name)):
            return None
        if match.re is FACTOR:
            return int(match["factor"])
        name = match["rest"]
    return None


def pair_names(hr: Iterable[str], lr: Iterable[str]) -> dict[str, str]:
    """{a name of an HR image: that of its LR image}, without those that have none or might have several."""
    hr, lr = set(hr), set(lr)
    pairs = {name: name for name in hr & lr}
    true_names = TrueNames(hr)
    claims: defaultdict[str, list[str]] = defaultdict(list)
    for name in lr - hr:
        if len(fitting := true_names.of(name)) == 1:
            claims[fitting[0]].append(name)
    return {true: names[0] for true, names in claims.items() if len(names) == 1} | pairs
