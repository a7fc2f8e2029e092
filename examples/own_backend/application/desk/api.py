"""The API."""

import hmac
import os
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Query

from desk import store
from desk.celery_app import archive

app = FastAPI(title="Desk")


@app.get("/health")
def health() -> dict[str, str]:
    """Say that this process answers."""
    return {"status": "ok", "application": "desk"}


@app.get("/observations")
def observations(count: Annotated[int, Query(ge=1, le=1000)] = 10) -> list[dict[str, Any]]:
    """List the newest looks at the gateway."""
    return [{"id": row.id, "at": row.at, "logged_in": row.logged_in} for row in store.newest(count)]


@app.post("/archive", status_code=202)
def start_archive(x_token: Annotated[str, Header()] = "") -> dict[str, str]:
    """Have a worker write the observations to the bucket; needs the token."""
    if not hmac.compare_digest(x_token.encode(), os.environ["DESK_TOKEN"].encode()):
        raise HTTPException(403, "The header X-Token is not the token of this application.")
    return {"task": archive.delay(1000).id}
