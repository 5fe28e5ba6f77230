-- The saved queries, each under its name and the question that it answers. Amazon Athena SQL (Trino), engine version 3.
-- After a change, scripts/save-queries.sh copies them into template.yaml.
--
-- dt is the day on which an event was DELIVERED, and the one column that saves money: a query reads only the days of dt
-- that its WHERE names. When an event happened is in occurred_at: readings of 2010 that were loaded today have
-- today's dt. To look back further, change the number of days.
-- Delivery is at least once, so a query that counts takes one row for each event_id: the first received of those among
-- its days (delivery = 1). The ORDER BY continues with the columns of the table up to the last one that the query
-- reads, so that every run picks the same row. Conditions other than on dt come after that choice.
--
-- The questions about web pages come last. They take parameters in place of each `?`, in this order: over how many days
-- of delivery, and the source as a pattern of LIKE ('%' is every source). Others are named above their query.
--   A view is an event with a path and the action view (web/sluice.js) or page (the libraries behind /v1).
--   A visitor is an anonymous_id, else a visitor_id, which changes every day, else a user_id. Views with none of these
--   are counted as views, and by nobody.
--   A visit is a session_id, else a visitor; after 30 minutes without an event another one begins.
--   A time more than 30 days before its arrival or an hour after it is a wrong clock: the time of arrival counts.

-- totals-by-name-and-action: How often did each thing happen, and what is it worth?
-- Events delivered in the last 30 days; value is whatever the senders count: money, degrees, seconds.
-- A total has six decimals, and twelve below 1: what comes behind is noise of the addition (498598.3000000011).
-- From 1e9 on it is shown as it is: a double has 15 digits that count.
WITH deliveries AS (
    SELECT name, action, value,
        row_number() OVER (PARTITION BY event_id ORDER BY received_at, request_id, name, action, value) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(current_date - interval '30' day, '%Y-%m-%d')
)
SELECT name, action, count(*) AS events,
    if(abs(sum(value)) < 1e9, round(sum(value), if(abs(sum(value)) < 1, 12, 6)), sum(value)) AS total_value
FROM deliveries WHERE delivery = 1
GROUP BY name, action
ORDER BY events DESC, name, action;

-- latest-events: What came in last?
-- The rows as they were delivered in the last 7 days. An event that was delivered twice shows twice.
SELECT received_at, occurred_at, name, action, value, source, user_id, properties, event_id
FROM "${AthenaDatabaseName}"."${AthenaTableName}"
WHERE dt >= date_format(current_date - interval '7' day, '%Y-%m-%d')
ORDER BY received_at DESC, event_id, name, action, value, source, user_id, occurred_at, properties
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
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id) AS delivery
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
    SELECT user_id, occurred_at,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(current_date - interval '30' day, '%Y-%m-%d')
)
SELECT CAST(occurred_at AS date) AS day, count(DISTINCT user_id) AS users, count(*) AS events
FROM deliveries WHERE delivery = 1 AND user_id IS NOT NULL
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
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at, clock_skew_ms)
            AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(current_date - interval '7' day, '%Y-%m-%d')
),
sources AS (
    SELECT
        source,
        count_if(NOT is_backfill) AS live_events,
        count_if(is_backfill) AS backfilled_events,
        approx_percentile(clock_skew_ms, 0.05) FILTER (WHERE NOT is_backfill) AS skew_ms_p5,
        approx_percentile(clock_skew_ms, 0.5) FILTER (WHERE NOT is_backfill) AS skew_ms_median,
        approx_percentile(clock_skew_ms, 0.95) FILTER (WHERE NOT is_backfill) AS skew_ms_p95
    FROM deliveries WHERE delivery = 1 AND clock_skew_ms IS NOT NULL
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
-- Give its event_id as the execution parameter, in single quotes. Every copy that was delivered, with the object that
-- holds it. More than one is normal: a sender tried again, or Firehose did.
-- Reads every partition: the id does not say when the event was delivered. If you know the day, add AND dt = '2026-01-31'.
SELECT received_at, occurred_at, dt, name, action, value, source, user_id, properties, ip, user_agent,
    request_id, "$path" AS object
FROM "${AthenaDatabaseName}"."${AthenaTableName}"
WHERE event_id = ?
ORDER BY received_at, object;

-- rejections: Why were events rejected?
-- Events of the last 30 days by reason, with an example: the start of the latest text. None is lost: body holds it all.
WITH deliveries AS (
    SELECT reason, detail, event_id, part, body, received_at, coalesce(events, 1) AS events,
        row_number() OVER (PARTITION BY event_id, part
            ORDER BY received_at, request_id, reason, detail, "position", parts, events, body) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}_rejected"
    WHERE dt >= date_format(current_date - interval '30' day, '%Y-%m-%d')
),
ranked AS (
    SELECT reason, detail, body, received_at, events,
        row_number() OVER (PARTITION BY reason ORDER BY received_at DESC, event_id) AS latest
    FROM deliveries WHERE delivery = 1 AND part = 1
)
SELECT reason, sum(events) AS events, max(received_at) AS last_received_at,
    max(detail) FILTER (WHERE latest = 1) AS latest_detail,
    substr(from_utf8(from_base64(max(body) FILTER (WHERE latest = 1))), 1, 200) AS latest_text
FROM ranked
GROUP BY reason
ORDER BY events DESC, reason;

-- failures: What could Firehose not process or convert, and why?
-- Records of the last 30 days by kind of failure, each with the start of the latest one's body. A record may hold many
-- events. None is lost: the whole record is in rawdata.
WITH failed AS (
    SELECT error_type, arrivaltimestamp, rawdata,
        coalesce(errorcode, lasterrorcode) AS error_code,
        coalesce(errormessage, lasterrormessage) AS error_message
    FROM "${AthenaDatabaseName}"."${AthenaTableName}_errors"
    WHERE dt >= date_format(current_date - interval '30' day, '%Y-%m-%d')
),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY error_type, error_code, error_message
        ORDER BY arrivaltimestamp DESC, rawdata) AS latest
    FROM failed
)
SELECT
    error_type,
    error_code,
    error_message,
    count(*) AS records,
    from_unixtime(min(arrivaltimestamp) / 1e3) AS first_arrived_at,
    from_unixtime(max(arrivaltimestamp) / 1e3) AS last_arrived_at,
    substr(regexp_replace(from_utf8(from_base64(max(rawdata) FILTER (WHERE latest = 1))),
        '^sluice/1 [^\n]*\n|\nsluice/end [^\n]*\n?$'), 1, 200) AS latest_body
FROM ranked
GROUP BY error_type, error_code, error_message
ORDER BY records DESC, error_type, error_code, error_message;

-- page-views-by-day: How many pages were seen each day, and by how many visitors?
-- anonymous_views are those by nobody: without consent, and without VisitorIds.
WITH deliveries AS (
    SELECT event_id, action, source, path, coalesce(anonymous_id, visitor_id, user_id) AS visitor,
        if(clock_skew_ms NOT BETWEEN -2592000000 AND 3600000, received_at, occurred_at) AS happened_at,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at, clock_skew_ms,
                anonymous_id, session_id, path, referrer, visitor_id) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date_add('day', -?, current_date), '%Y-%m-%d')
),
views AS (
    SELECT CAST(happened_at AS date) AS day, visitor
    FROM deliveries
    WHERE delivery = 1 AND action IN ('view', 'page') AND path IS NOT NULL AND coalesce(source, '') LIKE ?
)
SELECT day, count(*) AS views, count(DISTINCT visitor) AS visitors, count_if(visitor IS NULL) AS anonymous_views
FROM views
GROUP BY day
ORDER BY day;

-- top-pages: Which pages are seen most, and where do visits begin and end?
-- The 50 most seen paths. Entries and exits are the first and the last view of a visit; seconds are those in which a
-- visitor was engaged with the page, as the leave events of web/sluice.js tell them, for each view.
WITH deliveries AS (
    SELECT event_id, action, value, source, path,
        coalesce(anonymous_id, visitor_id, user_id) AS visitor,
        coalesce(session_id, anonymous_id, visitor_id, user_id) AS visit_key,
        if(clock_skew_ms NOT BETWEEN -2592000000 AND 3600000, received_at, occurred_at) AS happened_at,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at, clock_skew_ms,
                anonymous_id, session_id, path, referrer, visitor_id) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date_add('day', -?, current_date), '%Y-%m-%d')
),
events AS (
    SELECT event_id, path, visitor, visit_key, happened_at, action IN ('view', 'page') AS is_view,
        if(action = 'leave', value) AS seconds
    FROM deliveries
    WHERE delivery = 1 AND action IN ('view', 'page', 'leave') AND path IS NOT NULL AND coalesce(source, '') LIKE ?
),
visits AS (
    SELECT *, sum(starts) OVER (PARTITION BY visit_key ORDER BY happened_at, event_id) AS visit
    FROM (
        SELECT event_id, is_view, visit_key, happened_at,
            if(date_diff('minute', lag(happened_at) OVER (PARTITION BY visit_key ORDER BY happened_at, event_id),
                happened_at) < 30, 0, 1) AS starts
        FROM events
        WHERE visit_key IS NOT NULL
    )
),
ranked AS (
    SELECT event_id,
        row_number() OVER (PARTITION BY visit_key, visit ORDER BY happened_at, event_id) AS from_the_first,
        row_number() OVER (PARTITION BY visit_key, visit ORDER BY happened_at DESC, event_id DESC) AS from_the_last
    FROM visits WHERE is_view
)
SELECT path, count_if(is_view) AS views, count(DISTINCT if(is_view, visitor)) AS visitors,
    count_if(from_the_first = 1) AS entries, count_if(from_the_last = 1) AS exits,
    round(sum(seconds) / nullif(count_if(is_view), 0), 1) AS seconds
FROM events LEFT JOIN ranked ON ranked.event_id = events.event_id
GROUP BY path
ORDER BY views DESC, path
LIMIT 50;

-- referrers-and-campaigns: Where do visitors come from?
-- Arrivals are views whose referrer is another site, or none, and views with utm_ or ref parameters. The third
-- parameter is the campaign (utm_campaign) as a pattern of LIKE; '%' is all of them, and arrivals without one.
WITH deliveries AS (
    SELECT event_id, action, source, path, properties, coalesce(anonymous_id, visitor_id, user_id) AS visitor,
        regexp_extract(referrer, '^[a-z]+://([^/]+)', 1) AS site,
        if(clock_skew_ms NOT BETWEEN -2592000000 AND 3600000, received_at, occurred_at) AS happened_at,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at, clock_skew_ms,
                properties, anonymous_id, session_id, path, referrer, visitor_id) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date_add('day', -?, current_date), '%Y-%m-%d')
),
arrivals AS (
    SELECT site, visitor, path,
        json_extract_scalar(properties, '$.host') AS host,
        coalesce(json_extract_scalar(properties, '$.utm_source'), json_extract_scalar(properties, '$.ref'))
            AS campaign_source,
        json_extract_scalar(properties, '$.utm_medium') AS medium,
        json_extract_scalar(properties, '$.utm_campaign') AS campaign
    FROM deliveries
    WHERE delivery = 1 AND action IN ('view', 'page') AND path IS NOT NULL AND coalesce(source, '') LIKE ?
)
SELECT if(site = host, NULL, site) AS site, campaign_source, medium, campaign,
    count(*) AS arrivals, count(DISTINCT visitor) AS visitors
FROM arrivals
WHERE coalesce(campaign, '') LIKE ?
    AND (site IS NULL OR site <> coalesce(host, '') OR coalesce(campaign_source, medium, campaign) IS NOT NULL)
GROUP BY if(site = host, NULL, site), campaign_source, medium, campaign
ORDER BY arrivals DESC, site, campaign_source, medium, campaign
LIMIT 100;

-- visits-by-day: How many visits were there, how long, and how many saw one page only?
-- A visit lasts from its first event to its last; engaged_seconds are those in which the visitor did something. A
-- bounce is a visit of one view in which nothing else was done. Views by nobody are left out.
WITH deliveries AS (
    SELECT event_id, action, value, source, path,
        coalesce(session_id, anonymous_id, visitor_id, user_id) AS visit_key,
        if(clock_skew_ms NOT BETWEEN -2592000000 AND 3600000, received_at, occurred_at) AS happened_at,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at, clock_skew_ms,
                anonymous_id, session_id, path, referrer, visitor_id) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date_add('day', -?, current_date), '%Y-%m-%d')
),
events AS (
    SELECT event_id, visit_key, happened_at, action IN ('view', 'page') AND path IS NOT NULL AS is_view,
        action = 'leave' AS is_leave, if(action = 'leave', value) AS seconds
    FROM deliveries WHERE delivery = 1 AND coalesce(source, '') LIKE ?
),
numbered AS (
    SELECT *, sum(starts) OVER (PARTITION BY visit_key ORDER BY happened_at, event_id) AS visit
    FROM (
        SELECT event_id, visit_key, happened_at, is_view, is_leave, seconds,
            if(date_diff('minute', lag(happened_at) OVER (PARTITION BY visit_key ORDER BY happened_at, event_id),
                happened_at) < 30, 0, 1) AS starts
        FROM events
        WHERE visit_key IS NOT NULL
    )
),
visits AS (
    SELECT CAST(min(happened_at) AS date) AS day, date_diff('second', min(happened_at), max(happened_at)) AS duration,
        coalesce(sum(seconds), 0) AS engaged, count_if(is_view) AS views,
        count_if(NOT coalesce(is_view, false) AND NOT coalesce(is_leave, false)) AS actions
    FROM numbered
    GROUP BY visit_key, visit
    HAVING count_if(is_view) > 0
)
SELECT day, count(*) AS visits, sum(views) AS views, count_if(views = 1 AND actions = 0) AS bounces,
    round(100e0 * count_if(views = 1 AND actions = 0) / count(*), 1) AS bounce_percent,
    round(avg(duration), 1) AS seconds, round(avg(engaged), 1) AS engaged_seconds
FROM visits
GROUP BY day
ORDER BY day;

-- funnel-of-three-steps: How many visitors take one step after the other?
-- The third to fifth parameters are the steps: a path such as '/cart' (its view), or an action such as 'purchase'. A
-- step counts at or after the visitor's first time at the step before.
WITH deliveries AS (
    SELECT event_id, action, source, path, coalesce(anonymous_id, visitor_id, user_id) AS visitor,
        if(clock_skew_ms NOT BETWEEN -2592000000 AND 3600000, received_at, occurred_at) AS happened_at,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at, clock_skew_ms,
                anonymous_id, session_id, path, referrer, visitor_id) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date_add('day', -?, current_date), '%Y-%m-%d')
),
steps AS (
    SELECT visitor, happened_at, if(action IN ('view', 'page') AND path IS NOT NULL, path, action) AS step
    FROM deliveries
    WHERE delivery = 1 AND coalesce(source, '') LIKE ?
        AND visitor IS NOT NULL
),
first_step AS (
    SELECT visitor, step, min(happened_at) AS reached_at FROM steps WHERE step = ? GROUP BY visitor, step
),
second_step AS (
    SELECT steps.visitor, steps.step, min(steps.happened_at) AS reached_at
    FROM steps JOIN first_step ON first_step.visitor = steps.visitor AND first_step.reached_at <= steps.happened_at
    WHERE steps.step = ? GROUP BY steps.visitor, steps.step
),
third_step AS (
    SELECT steps.visitor, steps.step, min(steps.happened_at) AS reached_at
    FROM steps JOIN second_step ON second_step.visitor = steps.visitor AND second_step.reached_at <= steps.happened_at
    WHERE steps.step = ? GROUP BY steps.visitor, steps.step
),
reached AS (
    SELECT 1 AS number, step FROM first_step
    UNION ALL SELECT 2 AS number, step FROM second_step
    UNION ALL SELECT 3 AS number, step FROM third_step
)
SELECT number, step, count(*) AS visitors, round(100e0 * count(*) / max(count(*)) OVER (), 1) AS percent
FROM reached
GROUP BY number, step
ORDER BY number;

-- retention-by-week: Of those who came first in a week, how many come back?
-- Weeks begin on Monday (UTC); week 0 is the first one. A visitor is an anonymous_id, else a user_id: a visitor_id does
-- not last longer than a day. Visitors that came before the days that are asked for seem new.
WITH deliveries AS (
    SELECT event_id, action, source, path, coalesce(anonymous_id, user_id) AS visitor,
        if(clock_skew_ms NOT BETWEEN -2592000000 AND 3600000, received_at, occurred_at) AS happened_at,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at, clock_skew_ms,
                anonymous_id, session_id, path, referrer, visitor_id) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date_add('day', -?, current_date), '%Y-%m-%d')
),
weeks AS (
    SELECT DISTINCT visitor, date_trunc('week', CAST(happened_at AS date)) AS week
    FROM deliveries
    WHERE delivery = 1 AND action IN ('view', 'page') AND path IS NOT NULL AND coalesce(source, '') LIKE ?
        AND visitor IS NOT NULL
),
cohorts AS (
    SELECT visitor, min(week) AS first_week FROM weeks GROUP BY visitor
)
SELECT first_week, date_diff('week', first_week, week) AS week, count(*) AS visitors,
    round(100e0 * count(*) / max(count(*)) OVER (PARTITION BY first_week), 1) AS percent
FROM weeks JOIN cohorts ON cohorts.visitor = weeks.visitor
GROUP BY first_week, date_diff('week', first_week, week)
ORDER BY first_week, week;

-- before-signup: What did anonymous visitors do before they signed up?
-- The pages that they saw and what else they did before the first event of their anonymous_id that has a user_id.
-- signups counts the visitors that did it.
WITH deliveries AS (
    SELECT event_id, action, source, user_id, path, anonymous_id AS visitor,
        if(clock_skew_ms NOT BETWEEN -2592000000 AND 3600000, received_at, occurred_at) AS happened_at,
        row_number() OVER (PARTITION BY event_id
            ORDER BY received_at, request_id, name, action, value, source, user_id, occurred_at, clock_skew_ms,
                anonymous_id, session_id, path, referrer, visitor_id) AS delivery
    FROM "${AthenaDatabaseName}"."${AthenaTableName}"
    WHERE dt >= date_format(date_add('day', -?, current_date), '%Y-%m-%d')
),
events AS (
    SELECT visitor, user_id, happened_at, if(action IN ('view', 'page') AND path IS NOT NULL, path, action) AS step
    FROM deliveries
    WHERE delivery = 1 AND coalesce(source, '') LIKE ?
        AND visitor IS NOT NULL
),
signups AS (
    SELECT visitor, min(happened_at) AS signed_up_at FROM events WHERE user_id IS NOT NULL GROUP BY visitor
)
SELECT step, count(DISTINCT events.visitor) AS signups, count(*) AS events
FROM events JOIN signups ON signups.visitor = events.visitor AND events.happened_at < signed_up_at
WHERE step <> 'leave'
GROUP BY step
ORDER BY signups DESC, events DESC, step
LIMIT 50;
