from __future__ import annotations

from nightaug.data.text import table


def test_a_table_has_its_first_column_to_the_left_and_the_others_to_the_right() -> None:
    assert table(["class", "AP"], [["car", "1.5"], ["pedestrian", "12.0"]]) == [
        "class         AP",
        "car          1.5",
        "pedestrian  12.0",
    ]
    assert table(["", "n"], []) == ["  n"]
    assert table(["a", "b"], [["x", ""]]) == ["a  b", "x"]
