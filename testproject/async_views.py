"""The async views of the demo. They do the same as `views`, with the session's async methods."""

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
    form_value,
    new_cart,
    redirect_after_login,
    redirect_back,
    session_of,
    show,
)


@require_safe
async def page(request: HttpRequest) -> HttpResponse:
    return await _show(request)


async def _show(request: HttpRequest, error: str = "") -> HttpResponse:
    rotation = await request.session.aget("rotation") or {}
    previous = None
    if rotation.get("before"):
        previous = await storage_by_id().aread(rotation["before"])
    return show(request, account=await aget_user(request), previous=previous, error=error)


@require_POST
async def cart(request: HttpRequest) -> HttpResponse:
    """Change a nested dict, without setting ``request.session.modified``."""
    cart = await request.session.asetdefault("cart", new_cart())
    cart[form_value(request, "fruit", FRUITS)] += 1
    return redirect_back(request, "cart")


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
    return redirect_after_login(request)


@require_POST
async def sign_out(request: HttpRequest) -> HttpResponse:
    await alogout(request)
    return redirect_back(request, "key")


@require_POST
async def expiry(request: HttpRequest) -> HttpResponse:
    await request.session.aset_expiry(LIFETIMES[form_value(request, "lifetime", LIFETIMES)][1])
    return redirect_back(request, "expiry")


@require_POST
async def types(request: HttpRequest) -> HttpResponse:
    await request.session.aset("types", dict(ONE_OF_EACH))
    return redirect_back(request, "types")


async def tabs(request: HttpRequest) -> HttpResponse:
    """Do what each of two tabs does: read, wait, and write a key of its own."""
    if request.method == "POST" and "side" not in request.POST:
        return redirect_back(request, "tabs")  # Without JavaScript, the form was sent once.
    if request.method == "POST":
        side = form_value(request, "side", SIDES)
        count = await request.session.aget(side, 0)
        await asyncio.sleep(OVERLAP_SECONDS)
        await request.session.aset(side, count + 1)
    return JsonResponse({side: await request.session.aget(side, 0) for side in SIDES})
