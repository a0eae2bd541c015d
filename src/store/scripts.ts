import { hash } from 'node:crypto'

/** A Lua script: it runs atomically, on the two keys of one stream. */
export interface Script {
  readonly text: string
  readonly sha: string
}

/** Of a record; another one is refused, never read. */
export const FORMAT = '1'

/** Frames up to so many bytes come along with the news; larger ones are fetched by whoever needs them. */
const MAX_NEWS_BYTES = 8_192

// Numbers go in and out as text: Lua prints large ones with an exponent, and a reply cuts off fractions.
const COMMON = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function text(number) return string.format('%.0f', number) end

local function expireLater(ms)
  redis.call('PEXPIRE', KEYS[1], ms)
  return redis.call('PEXPIRE', KEYS[2], ms) == 1
end

local function readAll()
  local fields = redis.call('HGETALL', KEYS[1])
  local m = {}
  for i = 1, #fields, 2 do m[fields[i]] = fields[i + 1] end
  return m, #fields > 0
end

local channel = KEYS[1]:sub(1, -3)
local function publish(keep, last, lengths, epoch, finish, frames)
  local news = '${FORMAT} ' .. keep .. ' ' .. last .. ' ' .. lengths .. ' ' .. epoch .. '\\n' .. finish .. '\\n' .. frames
  redis.call('PUBLISH', channel, news)
end
`

const RECORD = `${COMMON}
local m, isThere = readAll()
local first, last, ttl, beatAt = tonumber(m.first), tonumber(m.last), tonumber(m.ttl), tonumber(m.beatAt)
if isThere and (m.format ~= '${FORMAT}' or not (first and last and ttl and beatAt and tonumber(m.beat))) then
  return { 'foreign', m.format or false }
end

local function state()
  return {
    m.epoch or false, m.home or false, m.beat, text(math.max(0, now - beatAt)), m.first, m.last, m.ttl,
    m.startedAt or false, m.paced or false, m.stop or false, m.route or false,
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

/** ARGV: epoch, home, ttl, startedAt, epoch of the lost life that is replaced or '', '1' if paced, route if it has one. */
export const CREATE: Script = script(`${RECORD}
local isReplaced = m.outcome == 'lost' and m.epoch == ARGV[5]
if isThere and not isReplaced and not (m.outcome and hasLostItsLog()) then return { 'there', state() } end
redis.call('XRANGE', KEYS[2], '0', '0') -- fails for a key that is not ours
redis.call('HSET', KEYS[1], 'format', '${FORMAT}')
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'format', '${FORMAT}', 'epoch', ARGV[1], 'home', ARGV[2], 'ttl', ARGV[3], 'startedAt', ARGV[4],
  'first', '1', 'last', '0', 'beat', '0', 'beatAt', text(now))
if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'paced', '1') end
if ARGV[7] then redis.call('HSET', KEYS[1], 'route', ARGV[7]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return { 'made' }
`)

/** ARGV: epoch, home. */
export const DISCARD: Script = script(`${RECORD}
if isThere and m.epoch == ARGV[1] and m.home == ARGV[2] then redis.call('DEL', KEYS[1], KEYS[2]) end
return { 'done' }
`)

/**
 * The one that runs for every event in the worst case: few arguments, and of the record only what it needs.
 *
 * ARGV: home, lease, ttl, keep, last, first sequence of a batch or '-', epoch, all in one text; lengths and frames of the
 * batch or ''; and of a finish its news, outcome, time, error code and message.
 */
export const APPEND: Script = script(`${COMMON}
local home, lease, ttl, keep, newLast, batchFirst, epoch = ARGV[1]:match('^(%S+) (%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
local lengths, frames, finish, outcome = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
batchFirst = tonumber(batchFirst)

local m = redis.call('HMGET', KEYS[1], 'format', 'epoch', 'home', 'first', 'last', 'beat', 'outcome', 'stop', 'signs')
local first, last, beat, stop, signs = tonumber(m[4]), tonumber(m[5]), tonumber(m[6]), m[8], m[9]
if m[1] ~= '${FORMAT}' or not (first and last and beat) then
  local _, isThere = readAll()
  return isThere and { 'foreign', m[1] } or { 'missing' }
end

local function slowestAndOldSigns()
  local slowest, old, kept = false, {}, 0
  for field, value in pairs(readAll()) do
    if field:sub(1, 5) == 'sign:' then
      local position, at = value:match('^(%d+) (%d+)$')
      if not position or now - at > tonumber(lease) then old[#old + 1] = field
      else
        kept = kept + 1
        if field ~= 'sign:' .. home then slowest = math.min(slowest or position, position) end
      end
    end
  end
  if kept == 0 then old[#old + 1] = 'signs' end
  return slowest and text(slowest), old
end

local function stored()
  local slowest, old = false, {}
  if signs then slowest, old = slowestAndOldSigns() end
  return { 'stored', text(last), stop, slowest }, old
end

local function missing()
  redis.call('DEL', KEYS[1])
  return { 'missing' }
end

if m[2] ~= epoch or m[3] ~= home then return { 'fenced' } end
if m[7] then return m[7] == outcome and (stored()) or { 'fenced' } end

-- After a phase without the store the home has trimmed what would follow: then its oldest event does.
local oldest = tonumber(keep)
local follows = tonumber(newLast) == last
if batchFirst then follows = batchFirst == last + 1 or (batchFirst == oldest and oldest > last + 1) end
if not follows then return { 'apart', text(last) } end

if batchFirst then
  local id = newLast .. '-0'
  local isNew = first > last
  local isAdded = isNew and redis.call('XADD', KEYS[2], id, 'frames', frames, 'lengths', lengths)
    or not isNew and redis.call('XADD', KEYS[2], 'NOMKSTREAM', id, 'frames', frames, 'lengths', lengths)
  if not isAdded then return missing() end
  last = tonumber(newLast)
  expireLater(ttl)
else
  if not expireLater(ttl) and first <= last then return missing() end
end
if oldest > first then redis.call('XTRIM', KEYS[2], 'MINID', keep) end
redis.call('HSET', KEYS[1], 'first', keep, 'last', newLast, 'ttl', ttl, 'beat', text(beat + 1), 'beatAt', text(now))
if outcome then
  redis.call('HSET', KEYS[1], 'outcome', outcome, 'finishedAt', ARGV[6])
  if ARGV[7] then redis.call('HSET', KEYS[1], 'code', ARGV[7], 'message', ARGV[8]) end
end
local answer, old = stored()
if #old > 0 then redis.call('HDEL', KEYS[1], unpack(old)) end
if batchFirst and #frames <= ${MAX_NEWS_BYTES} then publish(keep, newLast, lengths, epoch, finish or '', frames)
elseif batchFirst or outcome then publish(keep, newLast, '-', epoch, finish or '', '') end
return answer
`)

/** ARGV: after, maxBytes, instance, position of its slowest client or ''. */
export const READ: Script = script(`${RECORD}
local after, maxBytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local batches, bytes, isFull = {}, 0, maxBytes == 0
if not isThere then return { 'missing' } end
if ARGV[4] ~= '' then
  expireLater(m.ttl)
  redis.call('HSET', KEYS[1], 'signs', '1', 'sign:' .. ARGV[3], ARGV[4] .. ' ' .. text(now))
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

/** ARGV: epoch, beat. */
export const REAP: Script = script(`${RECORD}
if not isThere or m.epoch ~= ARGV[1] or m.beat ~= ARGV[2] then return { 'no' } end
if m.outcome then return { m.outcome == 'lost' and 'yes' or 'no' } end
expireLater(m.ttl)
redis.call('HSET', KEYS[1], 'outcome', 'lost', 'finishedAt', text(now))
publish(m.first, m.last, '-', m.epoch, '{"outcome":"lost","finishedAt":' .. text(now) .. '}', '')
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
try('HMGET', KEYS[1], 'probe')
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
