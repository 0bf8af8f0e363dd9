"""A telephone menu: keys, a transfer after the last word, and hanging up. `rtcflow serve phone_agent:stream`.

Set TWILIO_ACCOUNT and TWILIO_TOKEN. Without them you can try it with a simulated carrier:
`rtcflow call --telephone twilio --dtmf ,,1,,9 ws://127.0.0.1:8000`. The page "Telephone" has the transfer for other
carriers.
"""

from __future__ import annotations

import os

import httpx2

import rtcflow
from rtcflow.speech import get_tts_model
from rtcflow.turns import ReplyHandler, Say

ACCOUNT, TOKEN = os.environ.get("TWILIO_ACCOUNT", ""), os.environ.get("TWILIO_TOKEN", "")
CALLS = os.environ.get("TWILIO_API", "https://api.twilio.com") + f"/2010-04-01/Accounts/{ACCOUNT}/Calls/"
COLLEAGUE = "+15550100"
MENU = "Press one for our opening hours, two to talk to somebody, nine to hang up."


def voice(text):
    return get_tts_model("espeak").tts(text)


class Menu(ReplyHandler):
    def __init__(self):
        super().__init__(self.speak, self.greet, output_sample_rate=8000, input_sample_rate=8000)

    def copy(self):
        return Menu()

    def speak(self, text):
        return Say(voice(text), text)

    def greet(self):
        return self.speak(MENU)

    async def receive(self, frame):
        pass

    async def on_dtmf(self, digit):
        self.interrupt()  # a caller who knows the menu need not hear it
        self.loop.create_task(self.pressed(digit))  # the next key must not wait for this one

    async def pressed(self, digit):
        if digit == "1":
            self.reply_to("We are open from nine to five.")
        elif digit == "2":
            goodbye = await self.run_sync(self.speak, "One moment, please. I connect you.")
            await self.say(goodbye, interruptible=False)  # returns when the carrier has played it
            await transfer(self.context.custom["call_id"], COLLEAGUE)
        elif digit == "9":
            await self.say(await self.run_sync(self.speak, "Goodbye."))
            self.hang_up("the caller pressed nine")
        else:
            self.reply_to(MENU)


async def transfer(call_id, number):
    twiml = f"<Response><Dial>{number}</Dial></Response>"
    async with httpx2.AsyncClient(auth=(ACCOUNT, TOKEN)) as client:
        response = await client.post(f"{CALLS}{call_id}.json", data={"Twiml": twiml})
        response.raise_for_status()


secrets = {"twilio": TOKEN} if TOKEN else {}  # without one, anybody can call: a warning says so
stream = rtcflow.Stream(Menu(), telephone=rtcflow.TelephoneConfig(secrets=secrets, carriers=("twilio",)))
