"""Kinds of task on numbers, dates and clock times."""

from random import Random

from soft2hard.data_gen.dods.operations.kinds import (
    DAYS,
    LABELS,
    MONTHS,
    SMALL,
    Kinds,
    Values,
    any_date,
    commas,
    number_of,
    spoken,
    yes_or_no,
)

KINDS = Kinds()


# --- numbers ----------------------------------------------------------------------------------------


@KINDS.of(n=SMALL)
def _times(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 60)
    return str(number), str(number * number_of(v["n"]))


@KINDS.of()
def _half(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 200)
    return str(2 * number), str(number)


@KINDS.of(labels=(("even", "odd"), *LABELS))
def _even(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 999)
    return str(number), yes_or_no(v, number % 2 == 0)


@KINDS.of(which=("larger", "smaller"))
def _of_two(rng: Random, v: Values) -> tuple[str, str]:
    a, b = rng.sample(range(1, 500), 2)
    return f"{a}, {b}", str(max(a, b) if v["which"] == "larger" else min(a, b))


@KINDS.of(which=("largest", "smallest"))
def _of_many(rng: Random, v: Values) -> tuple[str, str]:
    numbers = rng.sample(range(1, 300), rng.randint(3, 5))
    return commas(numbers), str(max(numbers) if v["which"] == "largest" else min(numbers))


@KINDS.of(order=("ascending", "descending"))
def _sorted_numbers(rng: Random, v: Values) -> tuple[str, str]:
    numbers = rng.sample(range(1, 300), rng.randint(3, 5))
    return commas(numbers), commas(sorted(numbers, reverse=v["order"] == "descending"))


@KINDS.of(limit=("50", "100", "200", "500"), labels=(("high", "low"), ("big", "small"), ("above", "below"), *LABELS))
def _above(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 2 * int(v["limit"]))
    return str(number), yes_or_no(v, number > int(v["limit"]))


@KINDS.of(n=("three", "five", "ten"), labels=LABELS)
def _divisible(rng: Random, v: Values) -> tuple[str, str]:
    wanted, n = rng.random() < 0.5, number_of(v["n"])
    number = next(x for x in iter(lambda: rng.randint(1, 400), None) if (x % n == 0) == wanted)
    return str(number), yes_or_no(v, wanted)


@KINDS.of(which=("first", "last"))
def _digit(rng: Random, v: Values) -> tuple[str, str]:
    number = str(rng.randint(10, 99999))
    return number, number[0 if v["which"] == "first" else -1]


@KINDS.of()
def _digits_added(rng: Random, v: Values) -> tuple[str, str]:
    number = str(rng.randint(10, 999))
    return number, str(sum(map(int, number)))


@KINDS.of()
def _ordinal_number(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1, 199)
    teens = number % 100 in (11, 12, 13)
    return str(number), f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


@KINDS.of()
def _roman(rng: Random, v: Values) -> tuple[str, str]:
    number = left = rng.randint(1, 120)
    parts = []
    for size, sign in (
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ):
        parts.append(sign * (left // size))
        left %= size
    return str(number), "".join(parts)


@KINDS.of(step=("ten", "hundred"))
def _rounded(rng: Random, v: Values) -> tuple[str, str]:
    step = 10 if v["step"] == "ten" else 100
    number = next(x for x in iter(lambda: rng.randint(1, 2000), None) if x % step != step // 2)
    return str(number), str((number + step // 2) // step * step)


@KINDS.of(
    form=(
        ("a price in dollars", "${}"),
        ("a percentage", "{}%"),
        ("a temperature in degrees", "{}°"),
        ("a page number", "p. {}"),
    )
)
def _number_written(rng: Random, v: Values) -> tuple[str, str]:
    number = str(rng.randint(1, 999))
    return number, v["form"][1].format(number)


@KINDS.of()
def _thousands(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(1000, 10 ** rng.randint(4, 8))
    return str(number), f"{number:,}"


@KINDS.of(
    units=(
        ("metres", "centimetres", "100"),
        ("kilometres", "metres", "1000"),
        ("kilograms", "grams", "1000"),
        ("hours", "minutes", "60"),
        ("minutes", "seconds", "60"),
        ("days", "hours", "24"),
        ("weeks", "days", "7"),
        ("years", "months", "12"),
        ("dozens", "pieces", "12"),
        ("feet", "inches", "12"),
        ("dollars", "cents", "100"),
        ("centuries", "years", "100"),
    )
)
def _converted(rng: Random, v: Values) -> tuple[str, str]:
    number = rng.randint(2, 60)
    return f"{number} {v['units'][0]}", f"{number * int(v['units'][2])} {v['units'][1]}"


@KINDS.of(labels=(("right", "wrong"), ("true", "false"), ("correct", "incorrect"), ("yes", "no")))
def _product_is_right(rng: Random, v: Values) -> tuple[str, str]:
    a, b, right = rng.randint(1, 50), rng.randint(2, 9), rng.random() < 0.5
    return f"{a} x {b} = {a * b + (0 if right else rng.choice((-2, -1, 1, 2)))}", yes_or_no(v, right)


# --- times ------------------------------------------------------------------------------------------


@KINDS.of(part=("day", "month", "year"))
def _part_of_date(rng: Random, v: Values) -> tuple[str, str]:
    date = any_date(rng)
    return spoken(date), {"day": str(date.day), "month": MONTHS[date.month - 1], "year": str(date.year)}[v["part"]]


@KINDS.of(
    form=(
        ("year-month-day", "%Y-%m-%d"),
        ("day/month/year", "%d/%m/%Y"),
        ("month/day/year", "%m/%d/%Y"),
        ("day.month.year", "%d.%m.%Y"),
    )
)
def _date_written(rng: Random, v: Values) -> tuple[str, str]:
    date = any_date(rng)
    return spoken(date), date.strftime(v["form"][1])


@KINDS.of()
def _month_of_numbers(rng: Random, v: Values) -> tuple[str, str]:
    date = any_date(rng)
    return date.isoformat(), MONTHS[date.month - 1]


@KINDS.of()
def _month_number(rng: Random, v: Values) -> tuple[str, str]:
    date = any_date(rng)
    return f"{MONTHS[date.month - 1]} {date.year}", str(date.month)


@KINDS.of(labels=(("weekday", "weekend"), ("work", "rest"), *LABELS[:3]))
def _weekday(rng: Random, v: Values) -> tuple[str, str]:
    day = rng.choice(DAYS) if rng.random() < 0.5 else rng.choice(DAYS[5:])
    return f"{day}, {rng.randint(1, 12)} o'clock", yes_or_no(v, day not in DAYS[5:])


@KINDS.of(style=("summer", "winter", "spring", "autumn"), labels=LABELS)
def _season(rng: Random, v: Values) -> tuple[str, str]:
    seasons = {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11)}
    wanted, date = rng.random() < 0.5, any_date(rng)
    # In these months, seasons change in the middle for some people.
    while (date.month in seasons[v["style"]]) != wanted or date.month in (3, 6, 9, 12):
        date = any_date(rng)
    return f"{date.day} {MONTHS[date.month - 1]}", yes_or_no(v, wanted)


@KINDS.of()
def _twelve_hours(rng: Random, v: Values) -> tuple[str, str]:
    hour, minute = rng.randrange(24), rng.randrange(60)
    return f"{hour:02}:{minute:02}", f"{(hour - 1) % 12 + 1}:{minute:02} {'am' if hour < 12 else 'pm'}"


@KINDS.of(part=("hour", "minute"))
def _part_of_time(rng: Random, v: Values) -> tuple[str, str]:
    hour, minute = rng.randint(1, 23), rng.randint(1, 59)
    return f"{hour}:{minute:02}", str(hour) if v["part"] == "hour" else f"{minute:02}"


@KINDS.of(labels=(("morning", "evening"), ("early", "late"), ("am", "pm"), *LABELS[:3]))
def _before_noon(rng: Random, v: Values) -> tuple[str, str]:
    hour, minute = rng.randrange(24), rng.randrange(60)
    return f"{hour:02}:{minute:02}", yes_or_no(v, hour < 12)


@KINDS.of(span=("century", "decade"))
def _span_of_year(rng: Random, v: Values) -> tuple[str, str]:
    year = rng.randint(1101, 1999)
    return str(year), f"{year // 10 * 10}s" if v["span"] == "decade" else f"{(year - 1) // 100 + 1}th century"


@KINDS.of(labels=LABELS)
def _leap_year(rng: Random, v: Values) -> tuple[str, str]:
    wanted = rng.random() < 0.5
    year = next(y for y in iter(lambda: rng.randint(1901, 2099), None) if (y % 4 == 0) == wanted)
    return str(year), yes_or_no(v, wanted)
