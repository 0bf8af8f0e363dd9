"""TURN credentials: what each provider is asked, by a local fake that checks it, and what is made of its answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import traceback

import httpx2
import pytest

from rtcflow import credentials

SERVERS = {"iceServers": [{"urls": ["turn:t.example"], "username": "u", "credential": "p"}]}
TWILIO = {"ice_servers": SERVERS["iceServers"], "ttl": "86400"}
VARIABLES = (
    "HF_TOKEN",
    *("CLOUDFLARE_TURN_KEY_ID", "CLOUDFLARE_TURN_KEY_API_TOKEN"),
    *("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"),
)

BASIC = "Basic " + base64.b64encode(b"AC1:tok").decode()
CLOUDFLARE = "https://rtc.live.cloudflare.com/v1/turn/keys/key1/credentials/generate-ice-servers"
QUESTIONS = {
    "hf": ({"token": "tok", "ttl": 60}, "GET", "https://turn.fastrtc.org/credentials?ttl=60", "Bearer tok", None),
    "cloudflare": (
        {"turn_key_id": "key1", "turn_key_api_token": "tok", "ttl": 60},
        *("POST", CLOUDFLARE, "Bearer tok", {"ttl": 60}),
    ),
    "twilio": (
        {"twilio_sid": "AC1", "twilio_token": "tok"},
        *("POST", "https://api.twilio.com/2010-04-01/Accounts/AC1/Tokens.json", BASIC, None),
    ),
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    """No token of this machine's takes part."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def provider(asked, answer=SERVERS, status=201):
    """A fake provider that notes what it is asked."""

    def handle(request):
        asked.append(request)
        return httpx2.Response(status, json=answer)

    return httpx2.MockTransport(handle)


def check(request, method):
    _, verb, url, authorization, body = QUESTIONS[method]
    assert (request.method, str(request.url)) == (verb, url)
    assert request.headers["authorization"] == authorization
    assert (json.loads(request.content) if request.content else None) == body


@pytest.mark.parametrize("method", QUESTIONS)
@pytest.mark.parametrize("by_name", [True, False])
def test_providers_are_asked_as_they_want(method, by_name):
    """URL, method, token and time to live are right, and what comes back is what browsers take."""
    asked, arguments = [], QUESTIONS[method][0]
    with httpx2.Client(transport=provider(asked, TWILIO if method == "twilio" else SERVERS)) as client:
        if by_name:
            found = credentials.get_turn_credentials(method, client=client, **arguments)
        else:
            found = getattr(credentials, f"get_{method}_turn_credentials")(client=client, **arguments)
        assert not client.is_closed
    check(asked[0], method)
    assert found["iceServers"] == SERVERS["iceServers"]
    assert found.get("iceTransportPolicy") == ("relay" if method == "twilio" else None)


@pytest.mark.anyio
@pytest.mark.parametrize("method", QUESTIONS)
@pytest.mark.parametrize("by_name", [True, False])
async def test_async_twins_ask_the_same(method, by_name):
    """On every backend; also for Twilio, for which FastRTC has none."""
    asked, arguments = [], QUESTIONS[method][0]
    async with httpx2.AsyncClient(transport=provider(asked, TWILIO if method == "twilio" else SERVERS)) as client:
        if by_name:
            found = await credentials.get_turn_credentials_async(method, client=client, **arguments)
        else:
            found = await getattr(credentials, f"get_{method}_turn_credentials_async")(client=client, **arguments)
    check(asked[0], method)
    assert found["iceServers"] == SERVERS["iceServers"]


def test_tokens_come_from_the_environment(monkeypatch):
    """Without arguments the variables count; a token of Hugging Face's is preferred to Cloudflare's key."""
    asked = []
    monkeypatch.setenv("CLOUDFLARE_TURN_KEY_ID", "key1")
    monkeypatch.setenv("CLOUDFLARE_TURN_KEY_API_TOKEN", "tok")
    with httpx2.Client(transport=provider(asked)) as client:
        credentials.get_turn_credentials(client=client, ttl=60)
        check(asked[0], "cloudflare")
        monkeypatch.setenv("HF_TOKEN", "tok")
        credentials.get_turn_credentials(client=client, ttl=60)
        check(asked[1], "hf")
        credentials.get_turn_credentials(client=client, ttl=60, turn_key_id="key1")
        check(asked[2], "cloudflare")


TOKENS = [
    ("hf", "token", "HF_TOKEN"),
    ("cloudflare", "turn_key_id", "CLOUDFLARE_TURN_KEY_ID"),
    ("cloudflare", "turn_key_api_token", "CLOUDFLARE_TURN_KEY_API_TOKEN"),
    ("twilio", "twilio_sid", "TWILIO_ACCOUNT_SID"),
    ("twilio", "twilio_token", "TWILIO_AUTH_TOKEN"),
]


@pytest.mark.parametrize(("method", "argument", "variable"), TOKENS)
@pytest.mark.parametrize("by_variable", [True, False])
def test_blanks_around_a_token_are_no_part_of_it(monkeypatch, method, argument, variable, by_variable):
    """A token out of a file ends with a line: what is asked has it without."""
    asked, arguments = [], dict(QUESTIONS[method][0])
    spaced = f" {arguments[argument]}\r\n"
    if by_variable:
        del arguments[argument]
        monkeypatch.setenv(variable, spaced)
    else:
        arguments[argument] = spaced
    with httpx2.Client(transport=provider(asked, TWILIO if method == "twilio" else SERVERS)) as client:
        credentials.get_turn_credentials(method, client=client, **arguments)
    check(asked[0], method)


@pytest.mark.parametrize(("method", "argument", "variable"), TOKENS)
@pytest.mark.parametrize("by_variable", [True, False])
@pytest.mark.parametrize("spoilt", ["SECRET\nSECRET", "SECRET\0", "SECRÉT", "SECRET\x7f"])
def test_a_token_that_cannot_be_sent_is_named_and_not_shown(
    monkeypatch, method, argument, variable, by_variable, spoilt
):
    """Nobody is asked, and no part of the token is in the error or its causes."""
    arguments = dict(QUESTIONS[method][0])
    if by_variable and "\0" not in spoilt:  # no environment holds one
        del arguments[argument]
        monkeypatch.setenv(variable, spoilt)
    else:
        arguments[argument] = spoilt
    with pytest.raises(ValueError, match=f"{argument}|{variable}") as caught:
        credentials.get_turn_credentials(method, **arguments)
    assert "SECR" not in "".join(traceback.format_exception(caught.value)).replace(repr(spoilt), "")


@pytest.mark.parametrize(
    ("method", "words"), [("hf", "HF_TOKEN"), ("cloudflare", "CLOUDFLARE_TURN_KEY_ID"), ("twilio", "TWILIO_AUTH_TOKEN")]
)
def test_a_missing_token_is_named(method, words):
    """Nobody is asked, and the error says which variable to set."""
    with pytest.raises(ValueError, match=words):
        credentials.get_turn_credentials(method)


def test_wrong_questions_are_errors():
    """An unknown provider, and an argument that is another provider's."""
    with pytest.raises(ValueError, match="cloudflare"):
        credentials.get_turn_credentials("acme")
    with pytest.raises(TypeError, match="twilio takes no ttl"):
        credentials.get_turn_credentials("twilio", ttl=5)


@pytest.mark.parametrize(("answer", "status"), [({"error": "tok is wrong"}, 401), ({"other": 1}, 200), ([], 200)])
def test_refusals_are_connection_errors_without_secrets(answer, status):
    """A refusal, or an answer without servers, is a ConnectionError that names the provider and no token."""
    with httpx2.Client(transport=provider([], answer, status)) as client:
        with pytest.raises(ConnectionError, match="Hugging Face") as caught:
            credentials.get_hf_turn_credentials("tok", client=client)
    assert "tok" not in str(caught.value)


@pytest.mark.anyio
async def test_a_provider_that_cannot_be_reached_is_a_connection_error():
    """As one that refuses: not the HTTP client's own error."""

    def fail(request):
        raise httpx2.ConnectTimeout("too late", request=request)

    words = "Hugging Face cannot be asked for TURN credentials: ConnectTimeout"
    with httpx2.Client(transport=httpx2.MockTransport(fail)) as client, pytest.raises(ConnectionError, match=words):
        credentials.get_hf_turn_credentials("tok", client=client)
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(fail)) as client:
        with pytest.raises(ConnectionError, match=words):
            await credentials.get_hf_turn_credentials_async("tok", client=client)


def test_coturn_credentials_are_signed():
    """The name says until when and for whom, and the password is its HMAC-SHA1 by the shared secret."""
    found = credentials.get_coturn_credentials("turn:t.example", "north", user="ada", ttl=600, now=1_000_000)
    expected = base64.b64encode(hmac.new(b"north", b"1000600:ada", hashlib.sha1).digest()).decode()
    assert found == {"iceServers": [{"urls": "turn:t.example", "username": "1000600:ada", "credential": expected}]}
