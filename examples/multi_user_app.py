"""Users with calls of their own, in FastAPI: sign in, call, see and end your calls. `rtcflow serve multi_user_app:app`.

    curl -c jar -X POST http://127.0.0.1:8000/login -H 'Content-Type: application/json' \\
         -d '{"name": "ali", "password": "sesame"}'

A browser that has signed in has the cookie, too. Then open http://127.0.0.1:8000/talk/ to talk.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Annotated

from echo import Echo
from fastapi import Cookie, Depends, FastAPI, HTTPException, Response
from pydantic import BaseModel

import rtcflow

PASSWORDS = {"ali": "sesame", "casey": "barley"}  # a real application keeps hashes, in a database
CALLS_OF_ONE = 2
signed_in: dict[str, str] = {}  # cookie -> name


class Login(BaseModel):
    name: str
    password: str


async def authorize(caller):
    """Name the caller. Called before anything is made for the call, and for its ICE servers.

    It is async, and awaits nothing, so that nobody comes in between counting and admission.
    """
    name = signed_in.get(caller.cookies.get("session", ""))
    if name is None:
        raise rtcflow.NotAuthorized("sign in first", status=401)
    if caller.new_call and len(calls_of(name)) >= CALLS_OF_ONE:
        raise rtcflow.NotAuthorized(f"{CALLS_OF_ONE} calls at once are enough")
    return name


class Loudness(Echo):
    """An echo as loud as its user wants it: `POST /calls/{webrtc_id}/volume`."""

    def emit(self):
        rate, samples = super().emit()
        volume = self.latest_args[1] if self.args_set.is_set() else 1.0
        return rate, (samples * volume).clip(-32768, 32767).astype("int16")

    def copy(self):
        return Loudness()


app = FastAPI()
stream = rtcflow.Stream(Loudness(), concurrency_limit=20, time_limit=600, authorize=authorize)
stream.mount(app, "/talk")


def calls_of(name):
    return {key: session for key, session in stream.calls.items() if session.principal == name}


@app.post("/login")
def login(who: Login, response: Response):
    if not hmac.compare_digest(PASSWORDS.get(who.name, "").encode(), who.password.encode()) or not who.password:
        raise HTTPException(401, "no such user, or another password")
    session = secrets.token_urlsafe()
    signed_in[session] = who.name
    response.set_cookie("session", session, httponly=True, samesite="strict")
    return {"name": who.name}


def user(session: Annotated[str, Cookie()] = "") -> str:
    if session not in signed_in:
        raise HTTPException(401, "sign in first")
    return signed_in[session]


def own_call(webrtc_id: str, name: Annotated[str, Depends(user)]):
    try:
        return calls_of(name)[webrtc_id]
    except KeyError:
        raise HTTPException(404, "you have no such call") from None


@app.get("/calls")
def calls(name: Annotated[str, Depends(user)]):
    return sorted(calls_of(name))


@app.post("/calls/{webrtc_id}/volume")
def set_volume(volume: float, session: Annotated[rtcflow.Session, Depends(own_call)]):
    session.set_input(volume)


@app.delete("/calls/{webrtc_id}")
def hang_up(session: Annotated[rtcflow.Session, Depends(own_call)]):
    session.close("you have ended it elsewhere")
