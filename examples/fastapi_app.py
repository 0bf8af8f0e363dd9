"""A stream inside a FastAPI application that decides who may call: `rtcflow serve fastapi_app:app`.

Open http://127.0.0.1:8000/talk/ for the page. `uvicorn fastapi_app:app` serves it as well.
"""

from __future__ import annotations

from echo import Echo
from fastapi import FastAPI

import rtcflow

banned = {"203.0.113.7"}


def authorize(caller):
    host, _ = caller.remote_address or ("nobody knows where", 0)
    if host in banned:
        raise rtcflow.NotAuthorized("not you")
    return host


app = FastAPI()
stream = rtcflow.Stream(Echo(), concurrency_limit=10, time_limit=600, authorize=authorize)
stream.mount(app, "/talk")


@app.get("/")
def live():
    return {"calls": len(stream.calls)}
