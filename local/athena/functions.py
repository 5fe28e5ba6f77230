"""The white list: every function of the local Athena, with its arguments, its result and its DuckDB.

One line is one signature: names, arguments, result and DuckDB. Arguments are types; T, U, K, V are any type, `ints` any
integer, `wall` a date or a timestamp as the clock shows it, f(T)->U a lambda, `any...` any number. The result is a
type, or an argument's (=0). In the DuckDB:

    {0} {*} {f}     the first argument, all of them, the function's name
    {t} {size}      the first argument's type, and its precision
    {1(a, b)} $a    the body of a lambda with a and b for its variables; a name of its own
    {map}           a check of a map's keys
    {d} {o} {n} {w} in aggregates: DISTINCT, the ORDER BY within, IGNORE NULLS, FILTER with OVER
    !name           a method of `local.athena.calls`

Other functions are refused: those in TRINO as not implemented, the rest in Athena's words.

Facts: https://trino.io/docs/current/functions.html
"""

from __future__ import annotations

import itertools
import re

from local.athena.types import INTEGERS

SCALARS = r"""
length | varchar | bigint | length({0})
length | varbinary | bigint | octet_length({0})
upper | varchar | =0 | CASE WHEN contains({0}, 'ß') THEN py_upper({0}) ELSE upper({0}) END
lower | varchar | =0 | lower({0})
reverse | varchar | =0 | py_reverse({0})
reverse | array(T) | =0 | list_reverse({0})
trim,ltrim,rtrim | varchar | =0 | py_trim({0}, '', '{f}')
trim,ltrim,rtrim | varchar,varchar | =0 | py_trim({0}, {1}, '{f}')
substr,substring | varchar,bigint | =0 | py_substr({0}, {1}, 2147483647)
substr,substring | varchar,bigint,bigint | =0 | py_substr({*})
lpad,rpad | varchar,bigint,varchar | varchar | py_pad({*}, '{f}')
replace | varchar,varchar | =0 | py_replace({0}, {1}, '')
replace | varchar,varchar,varchar | varchar | py_replace({*})
translate | varchar,varchar,varchar | varchar | translate({*})
split | varchar,varchar | array(=0) | py_split({0}, {1}, 9223372036854775807)
split | varchar,varchar,bigint | array(=0) | py_split({*})
split_part | varchar,varchar,bigint | =0 | py_split_part({*})
strpos | varchar,varchar | bigint | strpos({*})
strpos | varchar,varchar,bigint | bigint | py_strpos({*})
starts_with | varchar,varchar | boolean | starts_with({*})
chr | bigint | varchar | chr({0}::INTEGER)
concat | varchar,varchar,varchar... | varchar | !concat
concat | array(T),array(T),array(T)... | =0 | !concat
concat | varbinary,varbinary,varbinary... | varbinary | !concat
concat_ws | varchar,varchar... | varchar | concat_ws({*})
concat_ws | varchar,array(varchar) | varchar | athena_join({1}, {0})
format | varchar,any... | varchar | !format
to_utf8 | varchar | varbinary | encode({0})
from_utf8 | varbinary | varchar | py_utf8({0})
to_hex | varbinary | varchar | hex({0})
from_hex | varchar | varbinary | py_from_hex({0})
to_base64 | varbinary | varchar | to_base64({0})
from_base64 | varchar | varbinary | from_base64({0})
md5,sha1,sha256,sha512 | varbinary | varbinary | py_digest({0}, '{f}')
crc32 | varbinary | bigint | py_crc32({0})
url_extract_host,url_extract_path,url_extract_query | varchar | =0 | py_url_part({0}, '{f}')
url_extract_protocol,url_extract_fragment | varchar | =0 | py_url_part({0}, '{f}')
url_extract_port | varchar | bigint | CAST(py_url_part({0}, '{f}') AS BIGINT)
url_extract_parameter | varchar,varchar | =0 | py_url_parameter({*})
url_encode | varchar | varchar | py_url_encode({0})
url_decode | varchar | =0 | py_url_decode({0})
regexp_like | varchar,varchar | boolean | py_regexp_like({*})
regexp_extract | varchar,varchar | =0 | py_regexp_extract({*}, 0)
regexp_extract | varchar,varchar,bigint | =0 | py_regexp_extract({*})
regexp_extract_all | varchar,varchar | array(=0) | py_regexp_extract_all({*}, 0)
regexp_extract_all | varchar,varchar,bigint | array(=0) | py_regexp_extract_all({*})
regexp_replace | varchar,varchar | =0 | py_regexp_replace({*}, '')
regexp_replace | varchar,varchar,varchar | varchar | py_regexp_replace({*})
regexp_split | varchar,varchar | array(=0) | py_regexp_split({*})
regexp_count | varchar,varchar | bigint | len(py_regexp_extract_all({*}, 0))
regexp_position | varchar,varchar | integer | py_regexp_position({*})
json_extract | text,varchar | json | py_json_extract({*})
json_extract_scalar | varchar,varchar | =0 | py_json_extract_scalar({*})
json_extract_scalar | json,varchar | varchar | py_json_extract_scalar({*})
json_size | text,varchar | bigint | py_json_size({*})
json_parse | varchar | json | py_json_parse({0})
json_format | json | varchar | {0}
json_array_length | text | bigint | py_json_array_length({0})
abs | number | =0 | abs({0})
ceil,ceiling,floor,round | ints | =0 | {0}
ceil,ceiling,floor,round,truncate | decimal | decimal | !whole
ceil,ceiling,floor | double | double | {f}({0})
ceil,ceiling,floor | real | real | {f}({0})::FLOAT
round | ints,integer | =0 | round({*})
round | decimal,integer | decimal | !round
round | double | double | athena_round({0}, 0)
round | real | real | athena_round({0}::DOUBLE, 0)::FLOAT
round | double,integer | double | athena_round({*})
truncate | decimal,integer | decimal | !truncate
truncate | double | double | trunc({0})
truncate | real | real | trunc({0})::FLOAT
sign | ints | =0 | CASE WHEN {0} > 0 THEN 1 WHEN {0} < 0 THEN -1 WHEN {0} = 0 THEN 0 END
sign | decimal | decimal(1,0) | CASE WHEN {0} > 0 THEN 1 WHEN {0} < 0 THEN -1 WHEN {0} = 0 THEN 0 END
sign | double | double | CASE WHEN isnan({0}) THEN {0} WHEN {0} > 0 THEN 1e0 WHEN {0} < 0 THEN -1e0 ELSE {0} END
mod | number,number | any | !mod
power,pow | double,double | double | pow({*})
sqrt | double | double | CASE WHEN {0} < 0 THEN 'nan'::DOUBLE ELSE sqrt({0}) END
cbrt | double | double | py_cbrt({0})
ln | double | double | athena_ln({0})
log2 | double | double | (athena_ln({0}) / ln(2e0))
log10 | double | double | CASE WHEN {0} <= 0 THEN athena_ln({0}) ELSE log10({0}) END
log | double,double | double | (athena_ln({1}) / athena_ln({0}))
exp,sin,cos,tan,atan,sinh,cosh,tanh,degrees,radians | double | double | {f}({0})
asin,acos | double | double | CASE WHEN abs({0}) > 1 THEN 'nan'::DOUBLE ELSE {f}({0}) END
atan2 | double,double | double | atan2({*})
bitwise_and | bigint,bigint | bigint | ({0} & {1})
bitwise_or | bigint,bigint | bigint | ({0} | {1})
bitwise_xor | bigint,bigint | bigint | xor({*})
bitwise_not | bigint | bigint | (~{0})
e | | double | 2.718281828459045e0
pi | | double | pi()
nan | | double | 'nan'::DOUBLE
infinity | | double | 'inf'::DOUBLE
is_nan | double | boolean | isnan({0})
is_finite | double | boolean | isfinite({0})
is_infinite | double | boolean | isinf({0})
random,rand | | double | random()
random,rand | ints | =0 | floor(random() * {0})::BIGINT
uuid | | uuid | gen_random_uuid()::VARCHAR
greatest,least | T,T... | T | !greatest
if | boolean,T | T | CASE WHEN {0} THEN {1} END
if | boolean,T,T | T | CASE WHEN {0} THEN {1} ELSE {2} END
coalesce | T,T... | T | coalesce({*})
nullif | any,any | any | !nullif
try | any | =0 | TRY({0})
typeof | any | varchar | '{t}'
cardinality | array(T) | bigint | len({0})
cardinality | map(K,V) | bigint | len({0})
element_at | array(T),bigint | T | ({0})[py_element({1})]
element_at | map(K,V),K | V | athena_entry({*}).v
contains | array(T),T | boolean | athena_contains({*})
array_position | array(T),T | bigint | athena_position({*})
array_remove | array(T),T | =0 | CASE WHEN {1} IS NOT NULL THEN list_filter({0}, lambda l0: l0 IS DISTINCT FROM {1}) END
array_distinct | array(T) | =0 | athena_distinct({0})
array_union | array(T),array(T) | =0 | athena_distinct({0} || {1})
array_except | array(T),array(T) | =0 | athena_except({*})
array_intersect | array(T),array(T) | =0 | athena_intersect({*})
array_join | array(T),varchar | varchar | !array_join
array_join | array(T),varchar,varchar | varchar | !array_join
array_max | array(T) | T | CASE WHEN len(list_filter({0}, lambda l0: l0 IS NULL)) = 0 THEN list_max({0}) END
array_min | array(T) | T | CASE WHEN len(list_filter({0}, lambda l0: l0 IS NULL)) = 0 THEN list_min({0}) END
array_sort | array(T) | =0 | list_sort({0}, 'ASC', 'NULLS LAST')
array_sort | array(T),f(T,T)->integer | =0 | !array_sort
arrays_overlap | array(T),array(T) | boolean | athena_overlap({*})
slice | array(T),bigint,bigint | =0 | ({0})[py_slice({1}, {2}, len({0}), false):py_slice({1}, {2}, len({0}), true)]
trim_array | array(T),bigint | =0 | ({0})[1:len({0}) - {1}]
ngrams | array(T),bigint | array(array(T)) | athena_ngrams({*})
zip | array(T),array(U) | array(row(T,U)) | athena_zip({*})
flatten | array(array(T)) | array(T) | flatten({0})
repeat | T,integer | array(T) | list_transform(range({1}), lambda l0: {0})
sequence | bigint,bigint | array(bigint) | !sequence
sequence | bigint,bigint,bigint | array(bigint) | !sequence
sequence | date,date | array(date) | !sequence
sequence | date,date,days | array(date) | !sequence
sequence | date,date,months | array(date) | !sequence
sequence | timestamp,timestamp,days | array(timestamp) | !sequence
sequence | timestamp,timestamp,months | array(timestamp) | !sequence
transform | array(T),f(T)->U | array(U) | list_transform({*})
filter | array(T),f(T)->boolean | =0 | list_filter({*})
reduce | array(T),S,f(S,T)->S,f(S)->R | R | !reduce
all_match | array(T),f(T)->boolean | boolean | athena_all(list_transform({*}))
any_match | array(T),f(T)->boolean | boolean | athena_any(list_transform({*}))
none_match | array(T),f(T)->boolean | boolean | (NOT athena_any(list_transform({*})))
zip_with | array(T),array(U),f(T,U)->R | array(R) | list_transform(athena_zip({0}, {1}), lambda $a: {2($a.f0, $a.f1)})
map | array(K),array(V) | map(K,V) | {map}(athena_pairs({*}))
map | | map(unknown,unknown) | []
map_keys | map(K,V) | array(K) | list_transform({0}, lambda l0: l0.k)
map_values | map(K,V) | array(V) | list_transform({0}, lambda l0: l0.v)
map_entries | map(K,V) | array(row(K,V)) | list_transform({0}, lambda l0: struct_pack(f0 := l0.k, f1 := l0.v))
map_from_entries | array(row(K,V)) | map(K,V) | {map}(list_transform({0}, lambda l0: athena_kv(l0.f0, l0.f1)))
map_concat | map(K,V),map(K,V) | =0 | athena_map_concat({*})
map_filter | map(K,V),f(K,V)->boolean | =0 | list_filter({0}, lambda $a: {1($a.k, $a.v)})
transform_keys | map(K,V),f(K,V)->U | map(U,V) | {map}(list_transform({0}, lambda $a: athena_kv({1($a.k, $a.v)}, $a.v)))
transform_values | map(K,V),f(K,V)->U | map(K,U) | list_transform({0}, lambda $a: athena_kv($a.k, {1($a.k, $a.v)}))
date | varchar | date | !date
date | wall | date | CAST({0} AS DATE)
year,quarter,month,week,day,hour,minute,second | wall | bigint | {f}({0})
week_of_year | wall | bigint | week({0})
day_of_month | wall | bigint | day({0})
day_of_week,dow | wall | bigint | isodow({0})
day_of_year,doy | wall | bigint | dayofyear({0})
year_of_week,yow | wall | bigint | isoyear({0})
millisecond | wall | bigint | (millisecond({0}) % 1000)
year | months | bigint | ({0} // 12)
month | months | bigint | ({0} % 12)
day,day_of_month | days | bigint | ({0} // 86400000)
hour | days | bigint | ({0} // 3600000 % 24)
minute | days | bigint | ({0} // 60000 % 60)
second | days | bigint | ({0} // 1000 % 60)
to_milliseconds | days | bigint | {0}
timezone_hour | zoned | bigint | py_offset({0}.utc, {0}.zone) // 60
timezone_minute | zoned | bigint | py_offset({0}.utc, {0}.zone) % 60
date_trunc | varchar,date | date | !date_trunc
date_trunc | varchar,timestamp | =1 | !date_trunc
date_trunc | varchar,zoned | =1 | !date_trunc
date_add | varchar,bigint,date | date | !date_add
date_add | varchar,bigint,timestamp | =2 | !date_add
date_add | varchar,bigint,zoned | =2 | !date_add
date_diff | varchar,date,date | bigint | !date_diff
date_diff | varchar,timestamp,timestamp | bigint | !date_diff
date_diff | varchar,zoned,zoned | bigint | !date_diff
date_format | wall,varchar | varchar | py_date_format({*})
format_datetime | wall,varchar | varchar | py_format_datetime({*})
date_parse | varchar,varchar | timestamp | py_date_parse({*})
parse_datetime | varchar,varchar | zoned | athena_zoned(py_parse_datetime({*}), 'UTC')
from_iso8601_date | varchar | date | py_iso_date({0})
from_iso8601_timestamp | varchar | moment | py_iso_timestamp({0})
from_unixtime | double | zoned | athena_zoned(make_timestamp(round({0} * 1000)::BIGINT * 1000), 'UTC')
from_unixtime | double,varchar | zoned | !from_unixtime
from_unixtime_nanos | bigint | zoned | athena_zoned(make_timestamp(floor({0} / 1000e0)::BIGINT), 'UTC')
to_unixtime | timestamp | double | (epoch_us({0}) / 1e6)
to_unixtime | zoned | double | (epoch_us({0}.utc) / 1e6)
to_iso8601 | date | varchar | CAST({0} AS VARCHAR)
to_iso8601 | timestamp | varchar | replace(py_clock_text({0}, {size}), ' ', 'T')
to_iso8601 | zoned | varchar | athena_iso({0}, {size})
last_day_of_month | wall | date | last_day({0})
with_timezone | timestamp,varchar | zoned | !with_timezone
at_timezone | zoned,varchar | zoned | !at_timezone
current_timezone | | varchar | 'UTC'
now | | zoned | !now
"""

AGGREGATES = r"""
count | | bigint | count(*){w}
count | any | bigint | count({d}{0}){w}
count_if | boolean | bigint | count({d}CASE WHEN {0} THEN 1 END){w}
sum | ints | bigint | CAST(sum({d}{0}){w} AS BIGINT)
sum | decimal | decimal | !sum_decimal
sum | double | double | sum({d}{0}){w}
sum | real | real | CAST(sum({d}{0}){w} AS FLOAT)
sum | days | days | CAST(sum({d}{0}){w} AS BIGINT)
avg | ints | double | avg({d}{0}){w}
avg | decimal | =0 | !avg_decimal
avg | double | double | avg({d}{0}){w}
avg | real | real | CAST(avg({d}{0}){w} AS FLOAT)
min,max | orderable | =0 | {f}({0}){w}
min_by | any,orderable | =0 | arg_min_null({*}){w}
max_by | any,orderable | =0 | arg_max_null({*}){w}
arbitrary,any_value | any | =0 | any_value({0}){w}
array_agg | T | array(T) | list({d}{0}{o}){w}
bool_and,bool_or | boolean | boolean | {f}({0}){w}
every | boolean | boolean | bool_and({0}){w}
stddev_samp,stddev_pop,var_samp,var_pop | double | double | {f}({d}{0}){w}
stddev | double | double | stddev_samp({d}{0}){w}
variance | double | double | var_samp({d}{0}){w}
geometric_mean | double | double | geometric_mean({d}{0}){w}
approx_distinct | any | bigint | count(DISTINCT {0}){w}
approx_percentile | bigint,double | bigint | floor(py_percentiles(list({0}::DOUBLE){w}, [{1}])[1] + 0.5e0)::BIGINT
approx_percentile | bigint,array(double) | array(bigint) | athena_rounded(py_percentiles(list({0}::DOUBLE){w}, {1}))
approx_percentile | real,double | real | py_percentiles(list({0}::DOUBLE){w}, [{1}])[1]::FLOAT
approx_percentile | double,double | double | py_percentiles(list({0}){w}, [{1}])[1]
approx_percentile | double,array(double) | array(double) | py_percentiles(list({0}){w}, {1})
map_agg | K,V | map(K,V) | !map_agg
multimap_agg | K,V | map(K,array(V)) | !map_agg
histogram | K | map(K,bigint) | !histogram
listagg | varchar | varchar | string_agg({d}{0}, ''{o}){w}
listagg | varchar,varchar | varchar | string_agg({d}{0}, {1}{o}){w}
"""

WINDOWS = r"""
row_number,rank,dense_rank | | bigint | {f}(){w}
percent_rank,cume_dist | | double | {f}(){w}
ntile | bigint | bigint | ntile({0}){w}
first_value,last_value | T | T | {f}({0}{n}){w}
nth_value | T,bigint | T | nth_value({*}{n}){w}
lag,lead | T | T | {f}({0}{n}){w}
lag,lead | T,bigint | T | {f}({*}{n}){w}
lag,lead | T,bigint,T | T | {f}({*}{n}){w}
"""

# CAST: the types it takes, those it makes, and its DuckDB; the first line to fit counts. {to} is the new type, {size}
# its precision, {wall} the value as the clock shows it. Items of arrays, maps and rows are cast one by one.
CONVERSIONS = r"""
ints,real,double,decimal | boolean | {0} <> 0
boolean | ints,real,double,decimal | CAST(CAST({0} AS INTEGER) AS {to})
real,double | ints | CAST(athena_whole({0}) AS {to})
decimal | ints | CAST(round({0}, 0) AS {to})
double | real | athena_real({0})
real,double | decimal | CAST(CAST({0} AS VARCHAR) AS {to})
ints,real,double,decimal | ints,real,double,decimal | CAST({0} AS {to})
date,timestamp,timestamp with time zone | date | CAST({wall} AS DATE)
date,timestamp,timestamp with time zone | timestamp | athena_precise({wall}, {size})
date,timestamp | timestamp with time zone | athena_zoned(CAST({0} AS TIMESTAMP), 'UTC')
timestamp with time zone | timestamp with time zone | {0}
varchar | timestamp with time zone | py_cast_zoned({0})
varchar | ints,real,double,decimal,boolean,date,timestamp | !from_text
varchar,ints,real,double,decimal,boolean,date,timestamp,timestamp with time zone,uuid | varchar | !to_text
interval day to second,interval year to month | varchar | !to_text
varchar,ints,real,double,decimal,boolean,date,timestamp,array,map,row | json | !to_json
json | varchar,ints,real,double,decimal,boolean,date,timestamp,array,map,row | !from_json
"""

# Every other function of Trino 435, and of its plug-ins: families by their names, and the rest.
TRINO_FAMILIES = re.compile(
    "(approx|bing|bitwise|covar|from|geometry|hmac|inverse|json|learn|line|map|parse|regr|spatial|spooky|st|to|"
    r"values?_at|wilson)_\w+|\w+_(cdf|digest|distance)"
)
TRINO = frozenset(
    str.split(
        """bar bit_count char2hexint checksum classify codepoint color combinations contains_sequence
        convex_hull_agg corr cosine_similarity empty_approx_set evaluate_classifier_predictions features
        format_number hash_counts human_readable_seconds index intersection_cardinality is_json_scalar
        jaccard_index kurtosis luhn_check merge multimap_from_entries murmur3 normalize numeric_histogram
        qdigest_agg quantile_at_value reduce_agg regress render rgb shuffle simplify_geometry skewness soundex
        split_to_map split_to_multimap tdigest_agg timestamp_objectid version width_bucket word_stem xxhash64"""
    )
)


def split_types(text: str) -> list[str]:
    """The types of a list, split at the commas outside parentheses."""
    return re.split(r",(?![^(]*\))", text) if text else []


class Signature:
    """A line of a table."""

    def __init__(self, name: str, arguments: str, result: str, sql: str) -> None:
        self.name, self.result, self.sql = name, result, sql
        self.is_open = arguments.endswith("...")
        self.arguments = split_types(arguments.removesuffix("..."))

    def patterns(self, count: int) -> list[str]:
        """Its arguments, the last one as often as a call with so many has it."""
        *others, last = self.arguments or [""]
        return [*others, *[last] * (count - len(others))] if self.is_open else self.arguments


def read(table: str) -> dict[str, list[Signature]]:
    """The signatures of each name."""
    found: dict[str, list[Signature]] = {}
    for line in table.strip().splitlines():
        names, arguments, result, sql = (part.strip() for part in re.split(r" \|(?= )", line, maxsplit=3))
        for name in names.split(","):
            found.setdefault(name, []).append(Signature(name, arguments, result, sql))
    return found


SCALAR_FUNCTIONS, AGGREGATE_FUNCTIONS, WINDOW_FUNCTIONS = read(SCALARS), read(AGGREGATES), read(WINDOWS)


def read_casts(table: str) -> dict[tuple[str, str], str]:
    """The DuckDB of each CAST, by the names of both types."""
    found: dict[tuple[str, str], str] = {}
    for line in table.replace("ints", ",".join(INTEGERS)).strip().splitlines():
        taken, made, sql = line.split(" | ")
        for pair in itertools.product(taken.split(","), made.split(",")):
            found.setdefault((pair[0], pair[1]), sql)
    return found


CASTS = read_casts(CONVERSIONS)

SETTINGS = "SET TimeZone = 'UTC'; SET integer_division = true"

# Macros of DuckDB by their names; each is behind those it uses.
MACROS = {
    text.partition("(")[0]: text
    for text in r"""
athena_divide(a, b) AS CASE
    WHEN b = 0 THEN a * CASE WHEN signbit(CAST(b AS DOUBLE)) THEN '-inf'::DOUBLE ELSE 'inf'::DOUBLE END
    ELSE a / b END;
athena_mod(a, b) AS CASE WHEN b = 0 THEN 'nan'::DOUBLE ELSE a % b END;
athena_ln(x) AS CASE WHEN x < 0 OR isnan(x) THEN 'nan'::DOUBLE WHEN x = 0 THEN '-inf'::DOUBLE
    ELSE ln(x) END;
athena_quotient(a, b) AS sign(a) * sign(b) * ((2 * abs(a) + abs(b)) // (2 * abs(b)));
athena_round(x, places) AS CASE WHEN NOT isfinite(x) THEN x
    WHEN abs(x) * pow(10, places) < 9e18 THEN round(x, places)
    ELSE py_missing('round of such a large number', abs(x) * pow(10, places) >= 9e18)::DOUBLE END;
athena_whole(x) AS CASE WHEN isnan(x)
    THEN CAST(py_fail('INVALID_CAST_ARGUMENT: Cannot cast NaN to an integer') AS DOUBLE) ELSE round(x) END;
athena_real(x) AS CAST(CASE WHEN abs(x) >= 3.4028235677973366e38 AND isfinite(x)
    THEN sign(x) * 'inf'::DOUBLE ELSE x END AS FLOAT);
athena_precise(u, n) AS CASE WHEN n < 3 THEN py_round_moment(u, n) ELSE u END;
athena_rounded(l) AS list_transform(l, lambda l0: floor(l0 + 0.5e0)::BIGINT);
athena_zoned(u, z) AS CASE WHEN u IS NOT NULL THEN struct_pack(utc := u, zone := z) END;
athena_at_wall(u, z) AS athena_zoned(CASE WHEN z = 'UTC' THEN u ELSE py_moment(u, z) END, z);
athena_wall(v) AS CASE WHEN v.zone = 'UTC' THEN v.utc ELSE py_wall(v.utc, v.zone) END;
athena_iso(v, n) AS
    replace(py_clock_text(athena_wall(v), n), ' ', 'T') || py_offset_text(v.utc, v.zone);
athena_entry(m, key) AS list_filter(m, lambda l0: l0.k = key)[1];
athena_has_null(l) AS len(list_filter(l, lambda l0: l0 IS NULL)) > 0;
athena_contains(l, x) AS CASE WHEN l IS NULL OR x IS NULL THEN NULL
    WHEN len(list_filter(l, lambda l0: l0 = x)) > 0 THEN true WHEN athena_has_null(l) THEN NULL ELSE false END;
athena_position(l, x) AS CASE WHEN x IS NOT NULL
    THEN coalesce(list_filter(list_transform(l, lambda l0, l1: CASE WHEN l0 = x THEN l1 END),
        lambda l2: l2 IS NOT NULL)[1], CASE WHEN l IS NOT NULL THEN 0 END) END;
athena_distinct(l) AS list_filter(l, lambda l0, l1:
    len(list_filter(l[1:l1 - 1], lambda l2: l2 IS NOT DISTINCT FROM l0)) = 0);
athena_except(a, b) AS CASE WHEN b IS NULL OR len(b) = 0 THEN CASE WHEN b IS NOT NULL THEN a END
    ELSE athena_distinct(list_filter(a, lambda l0: len(list_filter(b, lambda l1: l1 IS NOT DISTINCT FROM l0)) = 0)) END;
athena_both(a, b) AS CASE WHEN b IS NOT NULL THEN athena_distinct(list_filter(a, lambda l0:
    len(list_filter(b, lambda l1: l1 IS NOT DISTINCT FROM l0)) > 0)) END;
athena_intersect(a, b) AS CASE WHEN len(a) < len(b) THEN athena_both(b, a) ELSE athena_both(a, b) END;
athena_overlap(a, b) AS CASE WHEN a IS NULL OR b IS NULL THEN NULL
    WHEN len(list_filter(a, lambda l0: len(list_filter(b, lambda l1: l1 = l0)) > 0)) > 0 THEN true
    WHEN (athena_has_null(a) AND len(b) > 0) OR (athena_has_null(b) AND len(a) > 0) THEN NULL ELSE false END;
athena_any(l) AS CASE WHEN list_contains(l, true) THEN true WHEN l IS NULL OR athena_has_null(l) THEN NULL
    ELSE false END;
athena_all(l) AS CASE WHEN list_contains(l, false) THEN false
    WHEN l IS NULL OR athena_has_null(l) THEN NULL ELSE true END;
athena_ngrams(l, n) AS list_transform(range(1, greatest(len(l) - n, 0) + 2), lambda l0: l[l0:l0 + n - 1]);
athena_zip(a, b) AS CASE WHEN a IS NOT NULL AND b IS NOT NULL
    THEN list_transform(range(1, greatest(len(a), len(b)) + 1), lambda l0: struct_pack(f0 := a[l0], f1 := b[l0])) END;
athena_kv(a, b) AS struct_pack(k := a, v := b);
athena_pairs(a, b) AS list_transform(range(1, py_same_length(len(a), len(b)) + 1),
    lambda l0: athena_kv(a[l0], b[l0]));
athena_map_concat(a, b) AS CASE WHEN a IS NOT NULL AND b IS NOT NULL THEN list_concat(
    list_filter(a, lambda l0: len(list_filter(b, lambda l1: l1.k = l0.k)) = 0), b) END;
athena_join(l, separator) AS CASE WHEN l IS NOT NULL AND separator IS NOT NULL
    THEN coalesce(array_to_string(list_filter(l, lambda l0: l0 IS NOT NULL), separator), '') END;
athena_diff(unit, a, b) AS CASE WHEN a <= b THEN date_sub(unit, a, b) ELSE -date_sub(unit, b, a) END;
athena_object(j, strict) AS CASE
    WHEN json_type(j) = 'OBJECT' THEN map_from_entries(list_transform(map_entries(CAST(j AS MAP(VARCHAR, JSON))),
        lambda e: {'key': lower(e.key), 'value': e.value ->> '$'}))
    WHEN strict THEN error('HIVE_CURSOR_ERROR: Row is not a valid JSON Object') END;
athena_field(value, parsed, name) AS CASE WHEN value IS NULL OR parsed IS NOT NULL THEN parsed
    ELSE error('HIVE_BAD_DATA: Error parsing field value ''' || value || ''' for field ' || name) END
""".strip().split(";\n")
}
