import { hash } from 'node:crypto'

/** A Lua script: it runs atomically, on the two keys of one stream; `APPEND` on those of several. */
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

local function readAll()
  local fields = redis.call('HGETALL', KEYS[1])
  local m = {}
  for i = 1, #fields, 2 do m[fields[i]] = fields[i + 1] end
  return m, #fields > 0
end

local function expireLater(ms)
  redis.call('PEXPIRE', KEYS[1], ms)
  return redis.call('PEXPIRE', KEYS[2], ms) == 1
end

local channel = KEYS[1]:sub(1, -3)
local function publish(epoch, keep, last, lengths, finish, frames)
  local head = table.concat({ '${FORMAT}', keep, last, lengths, epoch }, ' ')
  redis.call('PUBLISH', channel, head .. '\\n' .. finish .. '\\n' .. frames)
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
    m.startedAt or false, m.pace or false, m.stop or false, m.route or false,
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

/** Enters a life. `replaces` is the epoch of a lost one, or ''; `pace` how it is paced, or ''; a stream with a name has no route. */
export const CREATE: Script = script(`${RECORD}
local epoch, home, leaseMs, ttlMs, startedAt, replaces, pace, route = unpack(ARGV)

-- A home that lives puts a lost log back with its next beat.
local function isVoid()
  return (m.outcome or now - beatAt > tonumber(leaseMs)) and hasLostItsLog()
end
local isReplaced = m.outcome == 'lost' and m.epoch == replaces
if isThere and not isReplaced and not isVoid() then return { 'there', state() } end
redis.call('XRANGE', KEYS[2], '0', '0') -- fails for a key that is not ours
redis.call('HSET', KEYS[1], 'format', '${FORMAT}')
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'format', '${FORMAT}', 'epoch', epoch, 'home', home, 'ttl', ttlMs, 'startedAt', startedAt,
  'pace', pace, 'first', '1', 'last', '0', 'beat', '0', 'beatAt', text(now))
if route then redis.call('HSET', KEYS[1], 'route', route) end
redis.call('PEXPIRE', KEYS[1], ttlMs)
return { 'made' }
`)

/** Takes a life back. */
export const DISCARD: Script = script(`${RECORD}
local epoch, home = unpack(ARGV)

if isThere and m.epoch == epoch and m.home == home then redis.call('DEL', KEYS[1], KEYS[2]) end
return { 'done' }
`)

/**
 * Adds a batch, an end, both, or a beat. There can be one for each event: few arguments, and of the record only what is
 * needed. `head` is home, leaseMs, ttlMs, keep, last, first sequence of the batch or '-', and epoch. Without a batch
 * `lengths` and `frames` are '', without an end the others are not there. `finish` is what followers are told of it.
 *
 * Or adds a batch to each of several streams, three arguments each, and answers with an array of what it would have
 * answered to each.
 */
export const APPEND: Script = script(`
-- Its parameters hide those of the script, so that what follows is about one stream.
local function append(KEYS, ARGV)
${COMMON}
local head, lengths, frames, finish, outcome, finishedAt, code, message = unpack(ARGV)
local home, leaseMs, ttlMs, keep, newLast, batchFirst, epoch = head:match('^(%S+) (%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')

local format, itsEpoch, itsHome, first, last, ttl, beat, beatAt, pace, itsOutcome, stop, hasSigns = unpack(redis.call(
  'HMGET', KEYS[1], 'format', 'epoch', 'home', 'first', 'last', 'ttl', 'beat', 'beatAt', 'pace', 'outcome', 'stop', 'signs'))
first, last, beat = tonumber(first), tonumber(last), tonumber(beat)
if format ~= '${FORMAT}' or not (first and last and tonumber(ttl) and beat and tonumber(beatAt)) then
  local _, isThere = readAll()
  return isThere and { 'foreign', format } or { 'missing' }
end

local function signs()
  local pacing, old, isLast = false, {}, true
  local further = pace and pace:sub(1, 7) == 'fastest' and math.max or math.min
  for field, value in pairs(hasSigns and readAll() or {}) do
    if field:sub(1, 5) == 'sign:' then
      local position, at = value:match('^(%d+) (%d+)$')
      local isOld = not position or now - at > tonumber(leaseMs)
      isLast = isLast and isOld
      if isOld then old[#old + 1] = field
      elseif field ~= 'sign:' .. home then pacing = further(pacing or position, position) end
    end
  end
  if hasSigns and isLast then old[#old + 1] = 'signs' end
  return pacing and text(pacing), old
end

-- Mostly there is nothing else to say, and a number is read at the least cost.
local function stored(pacing) return (stop or pacing) and { 'stored', text(last), stop, pacing } or last end

local function missing()
  redis.call('DEL', KEYS[1])
  return { 'missing' }
end

if itsEpoch ~= epoch or itsHome ~= home then return { 'fenced' } end
if itsOutcome then return itsOutcome == outcome and stored((signs())) or { 'fenced' } end

local hasBatch, hasLog = batchFirst ~= '-', first <= last
local follows = tonumber(hasBatch and batchFirst - 1 or newLast) == last
-- After a time without the store the home has trimmed what would follow: then its oldest event does.
local isGap = hasBatch and batchFirst == keep and keep - 1 > last
if not follows and not isGap then return { 'apart', text(last) } end

-- A log that was evicted must not begin again in the middle.
if hasBatch and hasLog then
  if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', newLast .. '-0', 'frames', frames, 'lengths', lengths) then
    return missing()
  end
elseif hasBatch then
  redis.call('XADD', KEYS[2], newLast .. '-0', 'frames', frames, 'lengths', lengths)
end
if not expireLater(ttlMs) and hasLog then return missing() end
if tonumber(keep) > first then redis.call('XTRIM', KEYS[2], 'MINID', keep) end
last = tonumber(newLast)
redis.call('HSET', KEYS[1], 'first', keep, 'last', newLast, 'ttl', ttlMs, 'beat', text(beat + 1), 'beatAt', text(now))
if outcome then
  redis.call('HSET', KEYS[1], 'outcome', outcome, 'finishedAt', finishedAt)
  if code then redis.call('HSET', KEYS[1], 'code', code, 'message', message) end
end
local pacing, old = signs()
if #old > 0 then redis.call('HDEL', KEYS[1], unpack(old)) end
if hasBatch and #frames <= ${MAX_NEWS_BYTES} then publish(epoch, keep, newLast, lengths, finish or '', frames)
elseif hasBatch or outcome then publish(epoch, keep, newLast, '-', finish or '', '') end
return stored(pacing)
end

if #KEYS == 2 then return append(KEYS, ARGV) end
local answers = {}
for i = 1, #KEYS / 2 do
  answers[i] = append({ KEYS[2 * i - 1], KEYS[2 * i] }, { ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i] })
end
return answers
`)

/**
 * Reads a page; `position` is that of the client of `instance` that paces the stream, or not there to leave no sign. It
 * holds for one life, or with '' as `epoch` for whichever is there.
 */
export const READ: Script = script(`${RECORD}
local after, maxBytes, instance, position, epoch = unpack(ARGV)

if not isThere then return { 'missing' } end
if position and (epoch == '' or epoch == m.epoch) then
  expireLater(m.ttl)
  redis.call('HSET', KEYS[1], 'signs', '1', 'sign:' .. instance, position .. ' ' .. text(now))
end
local batches, bytes, isFull = {}, 0, maxBytes == '0'
local from = text(after + 1) .. '-0'
while not isFull do
  local entries = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', 16)
  for _, entry in ipairs(entries) do
    local size = #(entry[2][2] or '')
    isFull = bytes > 0 and bytes + size > tonumber(maxBytes)
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

/** Asks the home to stop. `homes` is what the channel of every home begins with, `name` that of the stream. */
export const STOP: Script = script(`${RECORD}
local homes, name = unpack(ARGV)

if not isThere or m.outcome then return { 'no' } end
expireLater(m.ttl)
redis.call('HSET', KEYS[1], 'stop', '1')
redis.call('PUBLISH', homes .. (m.home or ''), (m.epoch or '') .. '\\n' .. name)
return { 'yes' }
`)

/** Declares the stream lost. */
export const REAP: Script = script(`${RECORD}
local epoch, beat = unpack(ARGV)

if not isThere or m.epoch ~= epoch or m.beat ~= beat then return { 'no' } end
if m.outcome then return { m.outcome == 'lost' and 'yes' or 'no' } end
expireLater(m.ttl)
redis.call('HSET', KEYS[1], 'outcome', 'lost', 'finishedAt', text(now))
publish(epoch, m.first, m.last, '-', '{"outcome":"lost","finishedAt":' .. text(now) .. '}', '')
return { 'yes' }
`)

/**
 * Tries every command that the others run, on keys and two channels where nothing is.
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
