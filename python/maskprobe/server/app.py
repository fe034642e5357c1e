"""The application: routes, and what is around them."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ..errors import Error
from . import native_routes, ollama_routes, openai_routes, responses
from .answering import ClientGone
from .errors import LOG, ApiError, handle
from .guard import Guard
from .running import Server
from .settings import Settings

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'", "Cache-Control": "no-cache"}
CLIENT_GONE = 499  # nobody reads it; it is counted


def create_app(settings: Settings) -> Starlette:
    """An ASGI application. Its lifespan must be run: it loads and unloads models. `app.state.server` is the Server."""
    server = Server(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            server.stop()
            await server.models.close()

    page = _page_routes()
    open_paths = {"/health", *(route.path for route in page)}
    middleware = [Middleware(Guard, server=server, open_paths=open_paths)]
    if settings.cors:
        answers_to = Middleware(
            CORSMiddleware, allow_origins=settings.cors, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
        middleware.insert(0, answers_to)
    app = Starlette(
        routes=[*openai_routes.ROUTES, *responses.ROUTES, *ollama_routes.ROUTES, *native_routes.ROUTES, *page],
        middleware=middleware,
        exception_handlers={
            ApiError: handle,
            Error: handle,
            HTTPException: handle,
            ClientDisconnect: _gone,
            ClientGone: _gone,
            Exception: handle,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.server = server
    return app


async def _gone(request: Request, error: Exception) -> Response:
    LOG.debug("the client has gone")
    return Response(status_code=CLIENT_GONE)


def _page_routes() -> list[Route]:
    """Each file of the page by its own route, the first at / too."""

    def served(path: Path) -> Route:
        async def file(request: Request) -> Response:
            return FileResponse(path, headers=PAGE_HEADERS)

        return Route("/" if path.name == "index.html" else f"/{path.relative_to(PAGE).as_posix()}", file)

    return [served(path) for path in sorted(PAGE.rglob("*")) if path.is_file()]
