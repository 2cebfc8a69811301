"""Run the LiveKit bridge: `exeunt-livekit-bridge` or `python -m exeunt_livekit_bridge`."""

from typing import NoReturn

from exeunt.process.start import start


def main() -> NoReturn:
    """Run until SIGTERM."""
    # LiveKit signs with HMAC; for other algorithms there would be 9 MiB.
    start("exeunt-livekit-bridge", "exeunt_livekit_bridge.app", unused={"jwt": "cryptography"})


if __name__ == "__main__":
    main()
