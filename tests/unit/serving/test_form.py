"""Arguments as the fields of a form: from a description, from a function, into HTML."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Literal

import pytest

from rtcflow import Stream, VideoStreamHandler
from rtcflow.demo import EchoHandler
from rtcflow.routes.page import make_page
from rtcflow.serving.form import Field, arguments_of, read_arguments


def test_a_description_becomes_fields():
    """Texts, numbers, bools, lists to choose from, ranges: in their order."""
    given = {"name": "Ann", "loud": True, "gain": 0.5, "n": 3, "way": ["up", "down"], "level": range(2, 11, 4)}
    assert read_arguments(given) == (
        Field("name", "Ann"),
        Field("loud", True),
        Field("gain", 0.5),
        Field("n", 3),
        Field("way", "up", ("up", "down")),
        Field("level", 2, limits=(2, 10, 4)),
    )
    assert read_arguments({}) == ()
    assert read_arguments({"down": range(9, 0, -3)}) == (Field("down", 9, limits=(3, 9, 3)),)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (["a"], TypeError, "expected a dict"),
        ({1: "a"}, TypeError, "must be a text"),
        ({"a": None}, TypeError, "'a' is None"),
        ({"a": {}}, TypeError, "'a' is {}"),
        ({"a": []}, ValueError, "no value to choose"),
        ({"a": [[]]}, TypeError, "texts and numbers"),
        ({"a": range(0)}, ValueError, "empty"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(given, error, words):
    """The stream is not made, and the message says what is wrong."""
    with pytest.raises(error, match=words):
        Stream(EchoHandler(), arguments=given)


def test_a_function_describes_itself():
    """By defaults and annotations, after the frame, up to the first default that no form can hold."""

    def look(frame, name, n: int, loud: bool, way: Literal["up", "down"], gain: float = 0.5, model=None, late=1): ...

    expected = (
        Field("name"),
        Field("n", 0),
        Field("loud", False),
        Field("way", "up", ("up", "down")),
        Field("gain", 0.5),
    )
    assert arguments_of(look, own=1) == expected
    assert Stream(look, modality="video").options.form == expected
    assert Stream(VideoStreamHandler(look), modality="video").options.form == expected
    assert Stream(look, modality="video", arguments={"x": 1}).options.form == (Field("x", 1),)
    assert Stream(EchoHandler()).options.form == ()

    def tones(pitch: float = 440.0):
        yield 48000, [pitch]

    assert Stream(tones, mode="receive").options.form == (Field("pitch", 440.0),)
    assert arguments_of(print, own=1) == ()
    assert arguments_of(EchoHandler(), own=1) == ()

    def unknown(frame, what: Nowhere): ...  # noqa: F821

    assert arguments_of(unknown, own=1) == ()


class Elements(HTMLParser):
    """The attributes of every element that has a name or an id, and the options of selects."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.named, self.classes, self.options = {}, {}, []
        self.feed(page.decode())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.named[found.get("name") or found.get("id")] = found
        self.classes[found.get("class")] = found
        if tag == "option":
            self.options.append(found["value"])


def test_the_page_says_what_the_stream_is():
    """Modality, mode and the form's fields are in its markup, whatever their names contain."""
    evil = '"><script>alert(1)</script>'
    arguments = {evil: evil, "n": 3, "way": [evil, 2], "loud": True}
    page = make_page(Stream(EchoHandler(), arguments=arguments, additional_outputs_handler=print).options)
    assert b"<script>alert" not in page
    found = Elements(page)
    assert found.named["call"]["data-modality"] == "audio"
    assert found.named["call"]["data-mode"] == "send-receive"
    assert found.named["call"]["data-outputs"] == "last"
    assert found.named[evil]["value"] == evil
    assert (found.named["n"]["type"], found.named["n"]["step"], found.named["n"]["value"]) == ("number", "1", "3")
    assert "checked" in found.named["loud"]
    assert '"\\"><script>alert(1)</script>"' in found.options
    assert "2" in found.options
    assert "hidden" not in found.classes["arguments"]


def test_without_a_description_the_form_waits_for_the_handler_to_ask():
    """It takes any JSON values, and is hidden."""
    found = Elements(make_page(Stream(EchoHandler()).options))
    assert "hidden" in found.classes["arguments"]
    assert "json" in found.named
