"""Raw sample lines of every source: good ones, and damaged ones with what has to be said about them.

A new source needs its entry here: the shared contract runs on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CATEGORIES = [f"{n:08x}" for n in range(0x68FD1E64, 0x68FD1E64 + 26)]


def criteo_line(*, label: str = "0", counts: list[str] | None = None, categories: list[str] | None = None) -> bytes:
    """A line of Criteo's Kaggle data."""
    counts = counts or [str(n) for n in range(13)]
    return "\t".join([label, *counts, *(categories or CATEGORIES)]).encode() + b"\n"


AVAZU_HEADER = (
    b"id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    b"device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21\n"
)
AVAZU_START = b"1000009418151094273,0,14102100,1005,0,1fbe01fe,f3845767,28905ebd,ecad2386,7801e8d9,07d7df22,a99f214a,"
AVAZU_END = b"ddd2926e,44956a24,1,2,15706,320,50,1722,0,35,-1,79\n"


@dataclass(frozen=True)
class Sample:
    """Raw lines of a source.

    Attributes:
        header: The first line, if the format has one.
        good: Lines that have to be taken.
        damaged: Each damaged line, and a part of the reason given.
        settings: Of the source, beside its files.
        made_up: Whether the source reads no file.
    """

    header: bytes = b""
    good: list[bytes] = field(default_factory=list)
    damaged: list[tuple[bytes, str]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    made_up: bool = False

    def write(self, folder: Path, *, repeat: int, damaged: bool = False) -> dict[str, Any]:
        """Writes the lines to a file and gives the settings of a source that reads it."""
        if self.made_up:
            return self.settings
        lines = [self.good[i % len(self.good)] for i in range(repeat)]
        if damaged:
            lines[1:1] = [line for line, _ in self.damaged]
        path = folder / "raw.txt"
        path.write_bytes(self.header + b"".join(lines))
        return self.settings | {"files": str(path)}


SAMPLES = {
    "criteo": Sample(
        good=[
            criteo_line(label="1"),
            criteo_line(counts=[""] * 13, categories=[""] * 26),
            criteo_line(counts=["-1", "-2", "", "2147483647", *["0"] * 9]),
        ],
        damaged=[
            (b"0\t1\t2\n", "has 3 fields, but 40 are expected"),
            (criteo_line()[:-1] + b"\t68fd1e64\n", "has 41 fields, but 40 are expected"),
            (b"\n", "column 'label' is empty"),
            (criteo_line(label=""), "column 'label' is empty"),
            (criteo_line(label="2"), "label 'label' is neither 0 nor 1"),
            (criteo_line(counts=["x", *["1"] * 12]), "column 'I1' has to be an integer of 32 bits"),
            (criteo_line(counts=["1.5", *["1"] * 12]), "column 'I1' has to be an integer of 32 bits"),
            (criteo_line(counts=["2147483648", *["1"] * 12]), "column 'I1' has to be an integer of 32 bits"),
            (criteo_line().replace(b"68fd1e64", b"68fd\xff\xfe64"), "is not UTF-8 text: byte 0xff at position"),
            (criteo_line().replace(b"68fd1e64", b"68fd\re64"), "a carriage return in a field"),
        ],
    ),
    "avazu": Sample(
        header=AVAZU_HEADER,
        good=[
            AVAZU_START + AVAZU_END,
            AVAZU_START.replace(b",0,14102100", b",1,14102315") + AVAZU_END,
            AVAZU_START.replace(b"a99f214a", b"").replace(b"1005", b"") + AVAZU_END,
        ],
        damaged=[
            (AVAZU_START[:-1] + b"\n", "has 12 fields, but 24 are expected"),
            (AVAZU_START + AVAZU_END[:-1] + b",1\n", "has 25 fields, but 24 are expected"),
            (AVAZU_START.replace(b",0,14102100", b",,14102100") + AVAZU_END, "column 'click' is empty"),
            (AVAZU_START.replace(b",0,14102100", b",0,") + AVAZU_END, "column 'hour' is empty"),
            (AVAZU_START + AVAZU_END.replace(b"15706", b"many"), "column 'C14' has to be an integer of 32 bits"),
            (AVAZU_START.replace(b"1fbe01fe", b"\xc3\x28") + AVAZU_END, "is not UTF-8 text: byte 0xc3"),
        ],
    ),
    "movielens": Sample(
        header=b"label,user_id,item_id,tag_id\n",
        good=[b"1,451,415,9\n", b"0,15,22163,19\n", b"0,-7,5,1\n"],
        damaged=[
            (b"1,451\n", "has 2 fields, but 4 are expected"),
            (b"1,451,415,9,9\n", "has 5 fields, but 4 are expected"),
            (b"1,,415,9\n", "column 'user_id' is empty"),
            (b"1,45x,415,9\n", "column 'user_id' has to be an integer"),
            (b"1,\xff,415,9\n", "is not UTF-8 text: byte 0xff at position 2"),
            (b"1,\xff\n", "is not UTF-8 text"),
        ],
    ),
    "csv": Sample(
        header=b'click;price;visits;"site ""A"""\n',
        good=[b'1;2.5;3;"a;b"\n', b"0;;-40;\n", "0;1e3;17;größe\n".encode()],
        damaged=[
            (b"1;2.5\n", "has 2 fields, but 4 are expected"),
            (b"1;2.5;3;a;b\n", "has 5 fields, but 4 are expected"),
            (b"3;2.5;3;a\n", "label 'click' is neither 0 nor 1"),
            (b"1;dear;3;a\n", "column 'price' has to be a number"),
            (b"1;inf;3;a\n", "column 'price' is infinite"),
            (b"1;2.5;3;\xff\n", "is not UTF-8 text"),
            (b'1;2.5;3;"a\n', "has a quote that is not closed"),
        ],
        settings={"types": {"visits": "integer", "price": "number"}},
    ),
    "synthetic": Sample(settings={"rows": 700, "max_cardinality": 50}, made_up=True),
}
