"""One person in a room of LiveKit, on its real SDK: `python -m exeunt_local.livekit_participant`.

It is told what to do on stdin, one word a line: `publish` and `unpublish` a (silent) microphone, and `leave`, which the
end of the input means, too. What it has done it says on stdout, one JSON object a line: `joined` with LiveKit's ids of
the room's opening and of this stay, then each word when it is done; and `disconnected`, with the SDK's reason, when it
is out of the room without having left.

A process for each person, because people lose their connection in the middle of a call, which is a SIGKILL; and because
the SDK is native: it runs threads, keeps sockets and writes to stderr, for as long as the process lives.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from pathlib import Path

from livekit import api, rtc

KINDS = ("standard", "agent", "egress", "ingress", "sip")
"""What LiveKit takes participants for."""


async def attend(url: str, token: str) -> None:
    """Joins, does as told, and leaves; raises rtc.ConnectError when LiveKit does not let it in."""
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    room = rtc.Room()

    def disconnected(reason: rtc.DisconnectReason.ValueType) -> None:
        _print("disconnected", reason=rtc.DisconnectReason.Name(reason))

    room.on("disconnected", disconnected)
    await room.connect(url, token)
    _print("joined", room=await room.sid, participant=room.local_participant.sid)
    try:
        await _follow(room, orders)
    finally:
        room.off("disconnected", disconnected)
        await room.disconnect()
    _print("leave")


async def _follow(room: rtc.Room, orders: asyncio.StreamReader) -> None:
    microphone: rtc.LocalTrackPublication | None = None
    while (word := (await orders.readline()).decode().strip()) not in ("leave", ""):
        match word:
            case "publish":
                track = rtc.LocalAudioTrack.create_audio_track("microphone", rtc.AudioSource(48_000, 1))
                options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
                microphone = await room.local_participant.publish_track(track, options)
                _print(word)
            case "unpublish" if microphone:
                await room.local_participant.unpublish_track(microphone.sid)
                _print(word)
            case _:
                sys.stderr.write(f"cannot {word} now\n")


def _print(what: str, **details: str) -> None:
    sys.stdout.write(json.dumps({"what": what, **details}) + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="livekit_participant", description="Somebody in a room of LiveKit.")
    parser.add_argument("--url", required=True, help="of the LiveKit server, http:// or ws://")
    parser.add_argument("--keys", required=True, type=Path, help="file with a line `key: secret`")
    parser.add_argument("--kind", choices=KINDS, default="standard")
    for grant in ("hidden", "agent", "recorder"):
        parser.add_argument(f"--{grant}", action="store_true")
    parser.add_argument("room")
    parser.add_argument("identity", nargs="?", help="who joins")
    parser.add_argument("--sid", action="store_true", help="join nobody: print the id of the room's present attempt")
    given = parser.parse_args()
    if bool(given.identity) == given.sid:
        parser.error("either an identity or --sid")
    return given


async def sid_of(url: str, key: str, secret: str, room: str) -> str:
    """What LiveKit calls the present opening of a room. Exits with a message when nobody has joined it."""
    async with api.LiveKitAPI(url, key, secret) as livekit:
        rooms = (await livekit.room.list_rooms(api.ListRoomsRequest(names=[room]))).rooms
    if not rooms:
        sys.exit(f"nobody is in a room {room}: who joins makes it")
    return str(rooms[0].sid)


def main() -> None:
    """Attends the room that the arguments name, or tells its id."""
    given = _arguments()
    key, secret = given.keys.read_text().strip().split(": ")
    if given.sid:
        sys.stdout.write(asyncio.run(sid_of(given.url, key, secret, given.room)) + "\n")
        return
    grants = api.VideoGrants(
        room_join=True, room=given.room, hidden=given.hidden, agent=given.agent, recorder=given.recorder
    )
    token = api.AccessToken(key, secret).with_identity(given.identity).with_kind(given.kind).with_grants(grants)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(attend(given.url, token.to_jwt()))


if __name__ == "__main__":
    main()
