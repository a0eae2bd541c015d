import { hash } from 'node:crypto'

/** A Lua script: it runs atomically, on the two keys of one stream. */
export interface Script {
  readonly text: string
  readonly sha: string
}

/** Of a record; another one is refused, never read. */
export const FORMAT = '1'

// Numbers go in and out as text: Lua prints large ones with an exponent, and a reply cuts off fractions.
const RECORD = `
local fields = redis.call('HGETALL', KEYS[1])
local m = {}
for i = 1, #fields, 2 do m[fields[i]] = fields[i + 1] end
local isThere = #fields > 0
local first, last, ttl, beatAt = tonumber(m.first), tonumber(m.last), tonumber(m.ttl), tonumber(m.beatAt)
if isThere and (m.format ~= '${FORMAT}' or not (first and last and ttl and beatAt and tonumber(m.beat))) then
  return { 'foreign', m.format or false }
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function text(number) return string.format('%.0f', number) end

local function expireLater(ms)
  redis.call('PEXPIRE', KEYS[1], ms)
  return redis.call('PEXPIRE', KEYS[2], ms) == 1
end

local function state()
  return {
    m.epoch or false, m.home or false, m.beat, text(math.max(0, now - beatAt)), m.first, m.last, m.ttl,
    m.startedAt or false, m.stop or false, m.route or false,
    m.outcome or false, m.finishedAt or false, m.code or false, m.message or false
  }
end

-- The log can be evicted by itself.
local function hasLostItsLog()
  return first <= last and #redis.call('XRANGE', KEYS[2], m.last .. '-0', m.last .. '-0') == 0
end
`

// The first write of each script decides: where it is refused for want of memory nothing is written, and where it passes
// the others pass as well. HSET and XADD are refused, PEXPIRE is not.

/** ARGV: epoch, home, ttl, startedAt, epoch of the lost life that is replaced or '', route if it has one. */
export const CREATE: Script = script(`${RECORD}
local isReplaced = m.outcome == 'lost' and m.epoch == ARGV[5]
if isThere and not isReplaced and not (m.outcome and hasLostItsLog()) then return { 'there', state() } end
redis.call('XRANGE', KEYS[2], '0', '0') -- fails for a key that is not ours
redis.call('HSET', KEYS[1], 'format', '${FORMAT}')
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'format', '${FORMAT}', 'epoch', ARGV[1], 'home', ARGV[2], 'ttl', ARGV[3], 'startedAt', ARGV[4],
  'first', '1', 'last', '0', 'beat', '0', 'beatAt', text(now))
if ARGV[6] then redis.call('HSET', KEYS[1], 'route', ARGV[6]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return { 'made' }
`)

/** ARGV: epoch, home. */
export const DISCARD: Script = script(`${RECORD}
if isThere and m.epoch == ARGV[1] and m.home == ARGV[2] then redis.call('DEL', KEYS[1], KEYS[2]) end
return { 'done' }
`)

/**
 * ARGV: epoch, home, lease, ttl, keep, last, channel, news (its header), whether it takes the frames along; then the
 * first sequence (or ''), frames and lengths of a batch; then outcome (or ''), time, error code and message of a finish.
 */
export const APPEND: Script = script(`${RECORD}
local lease, keep, batchFirst, outcome = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[10]), ARGV[13]

local function slowestAndOldSigns()
  local slowest, old = false, {}
  for field, value in pairs(m) do
    if field:sub(1, 5) == 'sign:' then
      local position, at = value:match('^(%d+) (%d+)$')
      if not position or now - at > lease then old[#old + 1] = field
      elseif field ~= 'sign:' .. ARGV[2] then slowest = math.min(slowest or position, position) end
    end
  end
  return slowest and text(slowest), old
end

local function stored()
  local slowest = slowestAndOldSigns()
  return { 'stored', m.last, m.stop or false, slowest }
end

local function missing()
  redis.call('DEL', KEYS[1])
  return { 'missing' }
end

if not isThere then return { 'missing' } end
if m.epoch ~= ARGV[1] or m.home ~= ARGV[2] then return { 'fenced' } end
if m.outcome then return m.outcome == outcome and stored() or { 'fenced' } end

-- After a phase without the store the home has trimmed what would follow: then its oldest event does.
local follows = tonumber(ARGV[6]) == last
if batchFirst then follows = batchFirst == last + 1 or (batchFirst == keep and keep > last + 1) end
if not follows then return { 'apart', m.last } end

if batchFirst then
  local id, batch = ARGV[6] .. '-0', { 'frames', ARGV[11], 'lengths', ARGV[12] }
  local isNew = first > last
  local isAdded = isNew and redis.call('XADD', KEYS[2], id, unpack(batch))
    or not isNew and redis.call('XADD', KEYS[2], 'NOMKSTREAM', id, unpack(batch))
  if not isAdded then return missing() end
  m.last = ARGV[6]
  expireLater(ARGV[4])
else
  if not expireLater(ARGV[4]) and first <= last then return missing() end
end
if keep > first then redis.call('XTRIM', KEYS[2], 'MINID', ARGV[5]) end
redis.call('HSET', KEYS[1], 'first', ARGV[5], 'last', m.last, 'ttl', ARGV[4], 'beat', text(m.beat + 1), 'beatAt', text(now))
if outcome ~= '' then
  redis.call('HSET', KEYS[1], 'outcome', outcome, 'finishedAt', ARGV[14])
  if ARGV[15] then redis.call('HSET', KEYS[1], 'code', ARGV[15], 'message', ARGV[16]) end
end
local slowest, old = slowestAndOldSigns()
if #old > 0 then redis.call('HDEL', KEYS[1], unpack(old)) end
if batchFirst or outcome ~= '' then redis.call('PUBLISH', ARGV[7], ARGV[8] .. (ARGV[9] == '1' and ARGV[11] or '')) end
return { 'stored', m.last, m.stop or false, slowest }
`)

/** ARGV: after, maxBytes, instance, position of its slowest client or ''. */
export const READ: Script = script(`${RECORD}
local after, maxBytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local batches, bytes, isFull = {}, 0, maxBytes == 0
if not isThere then return { 'missing' } end
if ARGV[4] ~= '' then
  expireLater(m.ttl)
  redis.call('HSET', KEYS[1], 'sign:' .. ARGV[3], ARGV[4] .. ' ' .. text(now))
end
local from = text(after + 1) .. '-0'
while not isFull do
  local entries = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', 16)
  for _, entry in ipairs(entries) do
    local size = #(entry[2][2] or '')
    isFull = bytes > 0 and bytes + size > maxBytes
    if isFull then break end
    bytes = bytes + size
    batches[#batches + 1] = entry
    from = '(' .. entry[1]
  end
  isFull = isFull or #entries < 16
end
if #batches == 0 and hasLostItsLog() then return { 'missing' } end
return { 'page', state(), batches }
`)

/** ARGV: what the channel of every home begins with, name of the stream. */
export const STOP: Script = script(`${RECORD}
if not isThere or m.outcome then return { 'no' } end
expireLater(m.ttl)
redis.call('HSET', KEYS[1], 'stop', '1')
redis.call('PUBLISH', ARGV[1] .. (m.home or ''), (m.epoch or '') .. '\\n' .. ARGV[2])
return { 'yes' }
`)

/** ARGV: epoch, beat, channel. */
export const REAP: Script = script(`${RECORD}
if not isThere or m.epoch ~= ARGV[1] or m.beat ~= ARGV[2] then return { 'no' } end
if m.outcome then return { m.outcome == 'lost' and 'yes' or 'no' } end
expireLater(m.ttl)
redis.call('HSET', KEYS[1], 'outcome', 'lost', 'finishedAt', text(now))
local finish = '{"outcome":"lost","finishedAt":' .. text(now) .. '}'
redis.call('PUBLISH', ARGV[3], '{"format":${FORMAT},"epoch":"' .. m.epoch .. '","keep":' .. m.first .. ',"last":' .. m.last ..
  ',"finish":' .. finish .. '}\\n')
return { 'yes' }
`)

/**
 * Tries every command that the others run. ARGV: a channel of a stream, a channel of a home.
 * Answers with the version of the server and with each command that failed and its error.
 */
export const PROBE: Script = script(`
local failed = {}
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then failed[#failed + 1] = { (...), answer.err } end
end
try('TIME')
try('HSET', KEYS[1], 'probe', '1')
try('PEXPIRE', KEYS[1], 1000)
try('HGETALL', KEYS[1])
try('HDEL', KEYS[1], 'other')
try('XADD', KEYS[2], '*', 'probe', '1')
try('PEXPIRE', KEYS[2], 1000)
try('XRANGE', KEYS[2], '0', '0')
try('XTRIM', KEYS[2], 'MINID', '0')
try('DEL', KEYS[1], KEYS[2])
try('PUBLISH', ARGV[1], '')
try('PUBLISH', ARGV[2], '')
return { redis.REDIS_VERSION or '', failed }
`)

function script(text: string): Script {
  return { text, sha: hash('sha1', text) }
}
