"""Builds the Helm that the tests of deploy/chart install it with; minutes the first time."""

import asyncio

from actors.helm import MODULE

if __name__ == "__main__":
    asyncio.run(MODULE.build())
