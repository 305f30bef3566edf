"""The demo by async views: the same, through the session's async methods."""

import asyncio

from django.contrib.auth import aauthenticate, aget_user, alogin, alogout
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_POST, require_safe

from testproject.setup import storage_by_id
from testproject.showcase import (
    FRUITS,
    LIFETIMES,
    ONE_OF_EACH,
    OVERLAP_SECONDS,
    SIDES,
    SIGN_IN_FAILED,
    after_sign_in,
    back,
    chosen,
    new_cart,
    session_of,
    show,
)


@require_safe
async def page(request: HttpRequest) -> HttpResponse:
    return await _show(request)


async def _show(request: HttpRequest, error: str = "") -> HttpResponse:
    rotation = await request.session.aget("rotation") or {}
    former = None
    if rotation.get("before"):
        former = await storage_by_id().aread(rotation["before"])
    return show(request, account=await aget_user(request), former=former, error=error)


@require_POST
async def cart(request: HttpRequest) -> HttpResponse:
    """A change inside a nested dict. Nobody sets ``request.session.modified``."""
    cart = await request.session.asetdefault("cart", new_cart())
    cart[chosen(request, "fruit", FRUITS)] += 1
    return back(request, "cart")


@require_POST
async def sign_in(request: HttpRequest) -> HttpResponse:
    user = await aauthenticate(
        request,
        username=request.POST.get("username", ""),
        password=request.POST.get("password", ""),
    )
    if user is None:
        return await _show(request, SIGN_IN_FAILED)
    before = session_of(request).session_id
    await alogin(request, user)
    await request.session.aset(
        "rotation", {"before": before, "after": session_of(request).session_id}
    )
    return after_sign_in(request)


@require_POST
async def sign_out(request: HttpRequest) -> HttpResponse:
    await alogout(request)
    return back(request, "key")


@require_POST
async def expiry(request: HttpRequest) -> HttpResponse:
    await request.session.aset_expiry(LIFETIMES[chosen(request, "lifetime", LIFETIMES)][1])
    return back(request, "expiry")


@require_POST
async def types(request: HttpRequest) -> HttpResponse:
    await request.session.aset("types", dict(ONE_OF_EACH))
    return back(request, "types")


async def tabs(request: HttpRequest) -> HttpResponse:
    """What one of two tabs does: read, think, write a key of its own."""
    if request.method == "POST":
        side = chosen(request, "side", SIDES)
        count = await request.session.aget(side, 0)
        await asyncio.sleep(OVERLAP_SECONDS)
        await request.session.aset(side, count + 1)
    return JsonResponse({side: await request.session.aget(side, 0) for side in SIDES})
