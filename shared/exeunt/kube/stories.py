"""The Story that a run refers to. It may be gone, or out of our rights, and the run is to be stopped all the same."""

import structlog

from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiError, NotFound, Undecodable
from exeunt.kube.resources import STORIES
from exeunt.run.models import Story

log = structlog.get_logger()


async def find_story(kube: KubeClient, namespace: str, name: str) -> Story | None:
    """None where there is none, or none that can be read, which the log tells. Raises ApiUnavailable."""
    try:
        return await kube.get(STORIES, namespace, name, optional=True)
    except NotFound:
        return None
    except (ApiError, Undecodable) as error:
        log.warning("Story not usable", story=f"{namespace}/{name}", error=str(error))
        return None
