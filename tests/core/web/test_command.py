"""The command line of the web page, where gradio is missing too."""

import pytest

from core.web import __main__ as command


def test_one_line_where_gradio_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("requirements.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        command.main([])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "pip install -r requirements-web.txt" in said


@pytest.mark.parametrize("flags", [["--port", "0"], ["--port", "99999"], ["--most-pixels", "0"], ["--most-bytes", "x"]])
def test_wrong_flags(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(flags)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and flags[0] in said


def test_only_this_machine_by_default():
    assert command.parser().parse_args([]).host == "127.0.0.1"
