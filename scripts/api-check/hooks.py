"""What no schema can say, so that valid cases are valid: ids that exist, and fields that must fit
each other. Each rule names the sentence of the API that it follows."""

import json
import os
import random
import uuid

import schemathesis

IDS = json.loads(os.environ.get("API_CHECK_IDS", "{}"))
SPARE = {**IDS, **IDS.get("spare", {})}
# What these delete, replace or close is not that of which orders are made.
DESTRUCTIVE = {
    "replace_menu", "replace_restaurant", "set_restaurant_status", "delete_category", "delete_item",
}
# These take ids that do not exist yet.
CREATING = {"register_driver", "create_delivery"}
OFFSET_MAX = 10_000


def whole(value):
    """JSON Schema calls 7.0 an integer; a body must write it as 7."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole(inner) for inner in value]
    if isinstance(value, dict):
        return {name: whole(inner) for name, inner in value.items()}
    return value


def use_ids(value, dice, ids, share):
    """Puts ids that exist in the place of a share of those that were made up."""
    if isinstance(value, list):
        for inner in value:
            use_ids(inner, dice, ids, share)
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        is_id = isinstance(inner, (int, str)) and not isinstance(inner, bool)
        if name in ids and is_id and dice.random() < share:
            value[name] = dice.choice(ids[name])
        else:
            use_ids(inner, dice, ids, share)


def distinct(things, key):
    """The first of those that share a key."""
    seen = {}
    for thing in things:
        seen.setdefault(key(thing), thing)
    return list(seen.values())


def fit(value):
    """Makes the fields of a body fit each other, from the innermost on."""
    if isinstance(value, list):
        for inner in value:
            fit(inner)
    if not isinstance(value, dict):
        return
    for inner in value.values():
        fit(inner)
    # "What a client sends as a price or a tip has the restaurant's currency", and is not negative.
    if set(value) == {"amount", "currency"} and isinstance(value["amount"], int):
        value.update(amount=abs(value["amount"]) % 1000, currency="USD")
    if "street" in value and (value.get("latitude") is None or value.get("longitude") is None):
        value.pop("latitude", None)  # "must come with longitude"
        value.pop("longitude", None)
    # "unique within the item", "unique within its options", min and max are possible.
    if isinstance(value.get("choices"), list) and "name" in value:
        value["choices"] = distinct(value["choices"], lambda choice: choice["name"])
        value["min"] = 0
        value["max"] = max(1, value.get("max", 1))
    if isinstance(value.get("options"), list):
        value["options"] = distinct(value["options"], lambda options: options["name"])
    for name in ("allergens", "dietary", "cuisines"):
        if isinstance(value.get(name), list):
            value[name] = distinct(value[name], str)
    # An item of a cart or an order is on the menu of its restaurant; its options are optional.
    if "quantity" in value and "item_id" in value:
        value.pop("price_seen", None)
        value["choices"] = []
        first = value.get("restaurant_id", IDS["restaurant_id"][0]) == IDS["restaurant_id"][0]
        value["item_id"] = IDS["item_id"][0 if first else 2]
        value["quantity"] = 1  # a cart takes 99 of an item in all


def fit_query(operation, query):
    if query.get("cursor") is not None:
        query.pop("page", None)  # "in place of `page`"
    page, size = query.get("page"), query.get("page_size", 20)
    if isinstance(page, int) and isinstance(size, int) and page * size > OFFSET_MAX:
        query["page"] = max(1, OFFSET_MAX // size)  # "not beyond the 10000th"
    if "radius" in query and "near" not in query and operation == "list_restaurants":
        query.pop("radius")  # "Metres around `near`"
    for name in ("start_time", "end_time"):
        query.pop(name, None)  # "at most 7 days before end_time"
    if operation == "get_driver_route":
        query.pop("cursor", None)  # `next` of the page before


def fit_body(operation, body):
    if operation == "create_order":
        body["restaurant_id"] = IDS["restaurant_id"][0]
    if operation == "checkout_cart":
        for name in ("tips", "totals_seen", "restaurants"):
            body.pop(name, None)  # those in the cart, each once
    if operation in ("create_restaurant", "replace_restaurant"):
        # A grammar and a list of names; a country is one that has holidays.
        body.update(opening_hours="Mo-Su 08:00-22:00", time_zone="UTC", country="US")
    if operation in ("replace_restaurant", "create_restaurant"):
        body.pop("external_id", None)  # unique
    if operation in ("replace_menu", "create_category"):
        for category in body.get("categories", [body]):
            category.pop("category_id", None)  # one of this menu
            for item in category.get("items", []):
                item.pop("item_id", None)
    if operation == "redrive_dead_letters":
        for name in ("after", "start_time", "end_time"):
            body.pop(name, None)  # `next` of an answer; times from 1970 to 9999
    if operation == "set_availabilities":
        for item in body["items"]:
            item["item_id"] = IDS["item_id"][0]  # one of this menu
        del body["items"][1:]  # each once
    if operation == "invalidate_cache":
        body.clear()  # "exactly one of the three"
        body["keys"] = [f"menu:{IDS['restaurant_id'][0]}", "lists"]
    if operation == "set_order_status":
        # Each of these belongs to one status.
        if body["status"] != "preparing":
            body.pop("preparation_minutes", None)
        if body["status"] == "rejected":
            body["reason"] = body.get("reason") or "closed"
        else:
            body.pop("reason", None)
    if operation in ("rate_order",):
        body.pop("driver_rating", None)  # the order has had a driver
    if operation == "create_refund" and isinstance(body.get("amount"), dict):
        body["amount"]["amount"] = 1
    if operation in ("assign_delivery", "create_delivery") and body.get("driver_id"):
        body["driver_id"] = IDS["driver_id"][0]  # a registered one
    if operation == "post_location":
        body.pop("driver_id", None)  # "the path says it"
        body.pop("recorded_at", None)  # "At most 24 h ago and 60 s ahead"
        body.pop("order_id", None)  # not the nil UUID


@schemathesis.hook
def before_call(context, case, kwargs):
    operation = case.operation.definition.raw.get("operationId")
    if operation in DESTRUCTIVE:
        # Schemathesis takes ids from answers too, also for cases that are to be refused.
        for name, value in case.path_parameters.items():
            if str(value) in map(str, IDS.get(name, ())):
                case.path_parameters[name] = SPARE[name][0]
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return  # A case that is to be refused stays as it is.
    dice = random.Random(repr((operation, case.path_parameters, case.query, case.body)))
    ids = SPARE if operation in DESTRUCTIVE else IDS
    for part in (case.path_parameters, case.query):
        use_ids(part, dice, ids, share=0.75)
    if case.query:
        fit_query(operation, case.query)
    if case.headers and "Idempotency-Key" in case.headers:
        # "new for each order"
        key = case.headers["Idempotency-Key"]
        case.headers["Idempotency-Key"] = f"{key[:200]}-{uuid.uuid4()}"
    if not isinstance(case.body, dict):
        return
    case.body = whole(case.body)
    use_ids(case.body, dice, ids, share=0.5 if operation in CREATING else 1)
    fit(case.body)
    fit_body(operation, case.body)
    if "category_id" in case.body or operation == "set_availabilities":
        # A category and items are of one restaurant.
        case.path_parameters["restaurant_id"] = IDS["restaurant_id"][0]


@schemathesis.hook
def filter_failure(context, failure, case, response):
    # "A query parameter without a value counts as missing": `?page=` is no mistake.
    is_empty = "" in (case.query or {}).values()
    return not (is_empty and failure.title == "Schema-violating request accepted")
