// npm run soak -- [--seconds 300] [--interval 10] [--clients 60]       (or SOAK_SECONDS, SOAK_INTERVAL, SOAK_CLIENTS)
//
// Everything of test/hardening at once and for long: clients that read, drop, stall, crawl, come back with junk and stop
// streams, through a network that cuts; generators that fail, flood, hang and close late; all under tight limits. Prints
// one line per interval. Exits non-zero if a client got anything but exactly the right events, if the server had an
// unhandled error, or if its memory or its event-loop delay trends upward.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { createParser } from 'eventsource-parser'
import type { SoakReport } from './fixtures/soak-server.ts'
import { createRandom, SEED } from './helpers/random.ts'

const { values } = parseArgs({
  options: { seconds: { type: 'string' }, interval: { type: 'string' }, clients: { type: 'string' } }
})
const seconds = Number(values.seconds ?? process.env['SOAK_SECONDS'] ?? 300)
const intervalSeconds = Number(values.interval ?? process.env['SOAK_INTERVAL'] ?? Math.max(1, seconds / 30))
const clients = Number(values.clients ?? process.env['SOAK_CLIENTS'] ?? 60)

// The first part of the run fills caches and pools; growth is measured between the middle and the end.
const WARM_UP_SHARE = 1 / 3
const RSS_TOLERANCE_BYTES = 24 * 1024 * 1024
const RSS_TOLERANCE_SHARE = 0.15
const DELAY_TOLERANCE_MS = 30
const DELAY_TOLERANCE_FACTOR = 2

const random = createRandom(SEED)
const errors: string[] = []
let isOver = false
let received = 0

const server = fork(new URL('fixtures/soak-server.ts', import.meta.url), {
  execArgv: ['--expose-gc', '--import', import.meta.resolve('tsx')]
})
server.once('exit', (code) => {
  if (!isOver) fail(`the server has died (${code})`)
})
const [{ port }] = (await once(server, 'message')) as [{ port: number }]

function fail(message: string): never {
  console.error(`FAILED: ${message} (SEED=${SEED})`)
  process.exit(1)
}

type Manner = 'reads' | 'drops' | 'resets' | 'stalls' | 'crawls' | 'half-closes'

interface Visit {
  readonly data: string[]
  readonly events: string[]
  readonly lastEventId: string | undefined
  readonly status: string
}

/** One connection: asks, and behaves in one way until it is over. */
async function visit(path: string, cursor: string | undefined, manner: Manner): Promise<Visit> {
  const data: string[] = []
  const events: string[] = []
  let lastEventId = cursor
  let head = ''
  let body = ''
  let isChunked = true
  const parser = createParser({
    onEvent: (event) => {
      received += 1
      lastEventId = event.id ?? lastEventId
      if (event.event?.startsWith('stream-')) events.push(`${event.event} ${event.data}`)
      else data.push(event.data)
    }
  })
  const socket = connect(port, '127.0.0.1')
  socket.setEncoding('latin1')
  socket.on('error', () => {})
  const version = random.below(8) === 0 ? '1.0' : '1.1'
  const last = cursor === undefined ? '' : `last-event-id: ${cursor}\r\n`
  socket.write(
    `GET ${path} HTTP/${version}\r\nhost: x\r\naccept: text/event-stream\r\nconnection: close\r\n${last}\r\n`
  )
  if (manner === 'half-closes') socket.end()
  let budget = manner === 'drops' || manner === 'resets' ? random.below(20_000) : Infinity
  socket.on('data', (text: string) => {
    budget -= text.length
    body += text
    if (head === '') {
      const end = body.indexOf('\r\n\r\n')
      if (end === -1) return
      head = body.slice(0, end)
      body = body.slice(end + 4)
      isChunked = /transfer-encoding: chunked/i.test(head)
    }
    body = isChunked ? readChunks(body, (part) => parser.feed(part)) : (parser.feed(body), '')
    if (budget <= 0) {
      if (manner === 'resets') socket.resetAndDestroy()
      else socket.destroy()
    } else if (manner === 'stalls') {
      socket.pause()
      setTimeout(() => socket.destroy(), 500 + random.below(3_000))
    } else if (manner === 'crawls') {
      socket.pause()
      setTimeout(() => socket.resume(), 20)
    }
  })
  // No response of this server may stay open for ever: maxConnectionAge cuts each.
  const timer = setTimeout(() => {
    errors.push(`a response of ${path} (${manner}) was still open after 20 s`)
    socket.destroy()
  }, 20_000)
  await new Promise((resolve) => socket.once('close', resolve))
  clearTimeout(timer)
  return { data, events, lastEventId, status: head.split(' ')[1] ?? '' }
}

function readChunks(text: string, onPart: (part: string) => void): string {
  let rest = text
  for (;;) {
    const lineEnd = rest.indexOf('\r\n')
    if (lineEnd === -1) return rest
    const size = Number.parseInt(rest.slice(0, lineEnd), 16)
    const end = lineEnd + 2 + size + 2
    if (rest.length < end) return rest
    if (size > 0) onPart(rest.slice(lineEnd + 2, end - 2))
    rest = rest.slice(end)
  }
}

const manners: readonly Manner[] = ['reads', 'reads', 'drops', 'drops', 'resets', 'stalls', 'crawls', 'half-closes']
const careless = ['burst', 'fails', 'junk', 'hangs', 'closesLate']
let nextId = 0

/** Follows numbered words through everything, and checks every one of them. */
async function follow(temper: 'words' | 'slow', count: number): Promise<void> {
  const path = `/${temper}/s${nextId++}`
  let cursor: string | undefined
  let wanted = 1
  for (let visits = 0; visits < 200 && !isOver; visits++) {
    const { data, events, lastEventId, status } = await visit(path, cursor, random.pick(manners))
    // Evicted, expired, or orphaned for too long: said in-band, so nothing is owed.
    if (status === '204' || events.some((event) => /stream-gap|stream-error/.test(event))) return
    for (const text of data) {
      if (Number.parseInt(text, 10) !== wanted) {
        errors.push(`${path}: got ${text.slice(0, 10)} in place of ${wanted}, after ${cursor?.split('.')[1]}`)
        return
      }
      wanted += 1
    }
    cursor = lastEventId
    if (events.some((event) => event.startsWith('stream-end'))) {
      if (wanted !== count + 1) errors.push(`${path}: an end after ${wanted - 1} of ${count}`)
      return
    }
    await delay(random.below(100))
  }
}

async function misbehave(): Promise<void> {
  const temper = random.pick(careless)
  const id = `c${random.below(60)}`
  const cursor = random.pick([undefined, undefined, 'AAAAAAAA.3', 'junk', `${'a'.repeat(200)}.1`, '..', 'AAAAAAAA.end'])
  if (random.below(10) === 0) server.send({ kind: 'abort', id })
  await visit(random.below(2) === 0 ? `/${temper}/${id}` : `/${temper}`, cursor, random.pick(manners))
}

async function beOneClient(): Promise<void> {
  while (!isOver) {
    const kind = random.below(4)
    if (kind < 2) await misbehave()
    else if (kind === 2) await follow('words', 200)
    else await follow('slow', 60)
  }
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? 0
}

/** The middle of what follows the warm-up against the end of it. */
function trend(samples: readonly number[]): { readonly before: number; readonly after: number } {
  const measured = samples.slice(Math.ceil(samples.length * WARM_UP_SHARE))
  const half = measured.length >> 1
  return { before: median(measured.slice(0, half)), after: median(measured.slice(half)) }
}

async function report(): Promise<SoakReport> {
  server.send({ kind: 'report' })
  const [found] = (await once(server, 'message')) as [SoakReport]
  return found
}

console.log(`soak: ${seconds} s, ${clients} clients, one line per ${intervalSeconds} s, SEED=${SEED}`)
const crowd = Array.from({ length: clients }, () => beOneClient())
const reports: SoakReport[] = []
let events = 0
for (let elapsed = intervalSeconds; elapsed <= seconds; elapsed += intervalSeconds) {
  await delay(intervalSeconds * 1_000)
  const found = await report()
  reports.push(found)
  errors.push(...found.errors)
  const perSecond = Math.round((found.events - events) / intervalSeconds)
  events = found.events
  const mib = (bytes: number): string => (bytes / 1024 / 1024).toFixed(1)
  console.log(
    `${String(Math.round(elapsed)).padStart(5)} s  streams ${found.streams}  clients ${found.clients}  ` +
      `events/s ${perSecond}  received ${received}  rss ${mib(found.rssBytes)} MiB  heap ${mib(found.heapBytes)} MiB  ` +
      `buffered ${mib(found.bufferedBytes)} MiB  delay p99 ${found.delayMs.toFixed(1)} ms  ` +
      `stalled ${found.stalledClients}  errors ${errors.length}`
  )
}
isOver = true
server.send({ kind: 'close' })
await Promise.race([
  Promise.all([once(server, 'exit'), ...crowd]),
  delay(25_000).then(() => fail('the server did not close'))
])

const rss = trend(reports.map(({ rssBytes }) => rssBytes))
const loopDelay = trend(reports.map(({ delayMs }) => delayMs))
if (errors.length > 0) fail(errors.slice(0, 10).join('\n'))
if (rss.after > rss.before * (1 + RSS_TOLERANCE_SHARE) && rss.after > rss.before + RSS_TOLERANCE_BYTES) {
  fail(`memory trends upward: from ${rss.before} to ${rss.after} bytes`)
}
if (
  loopDelay.after > loopDelay.before * DELAY_TOLERANCE_FACTOR &&
  loopDelay.after > loopDelay.before + DELAY_TOLERANCE_MS
) {
  fail(`the event-loop delay trends upward: from ${loopDelay.before} to ${loopDelay.after} ms`)
}
console.log('soak: passed')
process.exit(0)
