-- The saved queries, each under its name and the question that it answers. Amazon Athena SQL (Trino), engine version 3.
--
-- dt is the day on which an event was DELIVERED, and the one column that saves money: a query reads only the days of dt
-- that its WHERE names. When an event happened stands in occurred_at: readings of 2010 that were loaded today have
-- today's dt. To look back further, change the number of days.
-- Delivery is at least once, so a query that counts takes one row for each event_id (delivery = 1).

-- totals-by-name-and-action: How often did each thing happen, and what is it worth?
-- Events delivered in the last 30 days; value is whatever the senders count: money, degrees, seconds.
WITH deliveries AS (
    SELECT name, action, value, row_number() OVER (PARTITION BY event_id ORDER BY received_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(current_date - interval '30' day, '%Y-%m-%d')
)
SELECT name, action, count(*) AS events, sum(value) AS total_value
FROM deliveries WHERE delivery = 1
GROUP BY name, action
ORDER BY events DESC, name, action;

-- daily-mean-temperature-in-celsius: How warm was each day?
-- Events named temperature with degrees Fahrenheit as their value, by the day on which they were measured.
-- Reads every partition: measurements of any year may have been delivered on any day.
WITH deliveries AS (
    SELECT value, occurred_at, row_number() OVER (PARTITION BY event_id ORDER BY received_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE name = 'temperature' AND value IS NOT NULL
)
SELECT CAST(occurred_at AS date) AS day, round((avg(value) - 32) * 5 / 9, 1) AS celsius, count(*) AS readings
FROM deliveries WHERE delivery = 1
GROUP BY CAST(occurred_at AS date)
ORDER BY day;

-- latest-events: What came in last?
-- The rows as they were delivered in the last 7 days. An event that was delivered twice shows twice.
SELECT received_at, occurred_at, name, action, value, source, user_id, properties, event_id
FROM "${AthenaDatabaseName}"."${AthenaTableName}"
WHERE dt >= date_format(current_date - interval '7' day, '%Y-%m-%d')
ORDER BY received_at DESC, event_id
LIMIT 50;

-- events-per-hour: How much comes in, hour by hour?
-- By the hour of arrival (UTC) in the last 7 days. For the hour in which things happened, use occurred_at instead.
WITH deliveries AS (
    SELECT received_at, row_number() OVER (PARTITION BY event_id ORDER BY received_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(current_date - interval '7' day, '%Y-%m-%d')
)
SELECT date_trunc('hour', received_at) AS hour, count(*) AS events
FROM deliveries WHERE delivery = 1
GROUP BY date_trunc('hour', received_at)
ORDER BY hour;

-- top-names: Which events are the most frequent?
-- The 20 most frequent names of the last 7 days, with their share of all events.
WITH deliveries AS (
    SELECT name, user_id, received_at,
        row_number() OVER (PARTITION BY event_id ORDER BY received_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(current_date - interval '7' day, '%Y-%m-%d')
)
SELECT name, count(*) AS events, round(100e0 * count(*) / sum(count(*)) OVER (), 1) AS percent,
    count(DISTINCT user_id) AS users, max(received_at) AS last_received_at
FROM deliveries WHERE delivery = 1
GROUP BY name
ORDER BY events DESC, name
LIMIT 20;

-- distinct-users: How many different users were there each day?
-- By the day on which things happened, of the events with a user_id that were delivered in the last 30 days.
WITH deliveries AS (
    SELECT user_id, occurred_at, row_number() OVER (PARTITION BY event_id ORDER BY received_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(current_date - interval '30' day, '%Y-%m-%d') AND user_id IS NOT NULL
)
SELECT CAST(occurred_at AS date) AS day, count(DISTINCT user_id) AS users, count(*) AS events
FROM deliveries WHERE delivery = 1
GROUP BY CAST(occurred_at AS date)
ORDER BY day DESC;

-- clock-skew-by-source: Whose clock is wrong?
-- Milliseconds between the sender's time and ours, in the last 7 days. Below zero the sender's time is the earlier one.
-- An event more than a day old when it arrived is a backfill, not a lying clock: it is counted apart, and left out of
-- the percentiles. A time in the future is always a wrong clock.
WITH deliveries AS (
    SELECT
        coalesce(source, '(no source)') AS source,
        clock_skew_ms,
        clock_skew_ms < -24 * 60 * 60 * 1000 AS is_backfill,
        row_number() OVER (PARTITION BY event_id ORDER BY received_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(current_date - interval '7' day, '%Y-%m-%d') AND clock_skew_ms IS NOT NULL
),
sources AS (
    SELECT
        source,
        count_if(NOT is_backfill) AS live_events,
        count_if(is_backfill) AS backfilled_events,
        approx_percentile(clock_skew_ms, 0.05) FILTER (WHERE NOT is_backfill) AS skew_ms_p5,
        approx_percentile(clock_skew_ms, 0.5) FILTER (WHERE NOT is_backfill) AS skew_ms_median,
        approx_percentile(clock_skew_ms, 0.95) FILTER (WHERE NOT is_backfill) AS skew_ms_p95
    FROM deliveries WHERE delivery = 1
    GROUP BY source
)
SELECT
    source,
    CASE
        WHEN live_events = 0 THEN 'backfill: old data, not a wrong clock'
        WHEN abs(skew_ms_median) > 60000 THEN 'wrong clock: off by more than a minute'
        ELSE 'good clock'
    END AS verdict,
    live_events, backfilled_events, skew_ms_p5, skew_ms_median, skew_ms_p95
FROM sources
ORDER BY abs(skew_ms_median) DESC NULLS LAST, source;

-- history-of-one-event: What became of one event?
-- Give its event_id as the execution parameter, in single quotes: 'order-1042'. Every copy that was delivered, with the
-- object that holds it. More than one is normal: a sender tried again, or Firehose did.
-- Reads every partition: the id does not say when the event was delivered. If you know the day, add AND dt = '2026-01-31'.
SELECT received_at, occurred_at, dt, name, action, value, source, user_id, properties, ip, user_agent,
    request_id, "$path" AS object
FROM "${AthenaDatabaseName}"."${AthenaTableName}"
WHERE event_id = ?
ORDER BY received_at, object;

-- rejections: Why were events rejected?
-- Events of the last 30 days by reason, with an example: the start of the latest text. None is lost: body holds it all.
WITH deliveries AS (
    SELECT reason, detail, event_id, received_at, body,
        row_number() OVER (PARTITION BY event_id, part ORDER BY received_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}_rejected"
    WHERE dt >= date_format(current_date - interval '30' day, '%Y-%m-%d') AND part = 1
)
SELECT reason, count(*) AS events, max(received_at) AS last_received_at,
    max_by(detail, received_at) AS latest_detail,
    substr(from_utf8(from_base64(max_by(body, received_at))), 1, 200) AS latest_text
FROM deliveries WHERE delivery = 1
GROUP BY reason
ORDER BY events DESC, reason;

-- failures: What could Firehose not process or convert, and why?
-- Records of the last 30 days by kind of failure, each with the start of the latest one's body. A record may hold many
-- events. None is lost: the whole record is in rawdata.
SELECT
    error_type,
    coalesce(errorcode, lasterrorcode) AS error_code,
    coalesce(errormessage, lasterrormessage) AS error_message,
    count(*) AS records,
    from_unixtime(min(arrivaltimestamp) / 1e3) AS first_arrived_at,
    from_unixtime(max(arrivaltimestamp) / 1e3) AS last_arrived_at,
    substr(regexp_replace(from_utf8(from_base64(max_by(rawdata, arrivaltimestamp))),
        '^sluice/1 [^\n]*\n|\nsluice/end [^\n]*\n?$'), 1, 200) AS latest_body
FROM "${AthenaDatabaseName}"."${AthenaTableName}_errors"
WHERE dt >= date_format(current_date - interval '30' day, '%Y-%m-%d')
GROUP BY error_type, coalesce(errorcode, lasterrorcode), coalesce(errormessage, lasterrormessage)
ORDER BY records DESC, error_type, error_code;
