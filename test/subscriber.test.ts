import { test } from 'tap'
import { createRegistry } from './helpers/create-registry.ts'
import { Feed } from './helpers/feed.ts'
import { turn } from './helpers/turns.ts'

const NEVER = { heartbeatInterval: 0, stallTimeout: Infinity } as const

// ── begin ────────────────────────────────────────────────────────────────────────────────────────────────────────────

test('the first block goes out before the generator yields', async (t) => {
  const { start, attach } = createRegistry(t, NEVER)
  const stream = start(new Feed().handler, { streamId: 'a' })
  const { transport } = attach(stream, { arrival: 'started', retry: 1_000 })
  await turn()
  t.match(
    transport.text,
    new RegExp(`^retry: \\d+\\nevent: stream-start\\ndata: {"streamId":"a"}\\nid: ${stream.epoch}\\.0\\n\\n$`)
  )
  t.equal(transport.writes.length, 1)
})

test('a client with a cursor gets no stream-start', async (t) => {
  const { start, attach } = createRegistry(t, NEVER)
  const stream = start(new Feed().handler, { streamId: 'a' })
  const { transport } = attach(stream, { lastEventId: `${stream.epoch}.0`, retry: 1_000 })
  await turn()
  t.match(transport.text, /^retry: \d+\n\n$/)
})

test('without a retry a client with a cursor still gets a byte', async (t) => {
  const { start, attach } = createRegistry(t, NEVER)
  const stream = start(new Feed().handler, { streamId: 'a' })
  const { transport } = attach(stream, { lastEventId: `${stream.epoch}.0`, retry: false })
  await turn()
  t.equal(transport.text, ':\n\n')
})

test('a restarted stream says that the old one is lost, before it begins', async (t) => {
  const { start, attach } = createRegistry(t, NEVER)
  const stream = start(new Feed().handler, { streamId: 'a' })
  const { transport } = attach(stream, { arrival: 'restarted', lastEventId: 'old.7' })
  await turn()
  t.strictSame(transport.control, ['stream-gap', 'stream-start'])
  t.strictSame(transport.controlData('stream-gap'), { reason: 'lost', missed: null, resumesAt: null })
})

test('a restarted stream that was trimmed before its body began says so, too', async (t) => {
  const { registry, start, attach } = createRegistry(t, { ...NEVER, bufferSize: 2 })
  const feed = new Feed()
  const stream = start(feed.handler, { streamId: 'a', backpressure: 'none' })
  const { transport, open } = attach(stream, { arrival: 'restarted', lastEventId: 'old.7', opens: false })
  feed.push('1', '2', '3', '4', '5')
  await turn()
  open()
  await turn()
  t.strictSame(transport.control, ['stream-gap', 'stream-start', 'stream-gap'])
  t.match(transport.text, '{"reason":"trimmed","missed":3,"resumesAt":4}')
  t.strictSame(transport.data, ['4', '5'])
  t.equal(registry.stats().gaps, 2)
})

test('a log that begins later is announced as 0, then the gap', async (t) => {
  const { start, attach } = createRegistry(t, { ...NEVER, bufferSize: 2 })
  const feed = new Feed()
  const stream = start(feed.handler, { streamId: 'a' })
  feed.push('1', '2', '3', '4', '5')
  await turn()
  const { transport } = attach(stream)
  await turn()
  t.equal(transport.events[0]?.id, `${stream.epoch}.0`)
  t.strictSame(transport.controlData('stream-gap'), { reason: 'trimmed', missed: 3, resumesAt: 4 })
  t.strictSame(transport.data, ['4', '5'])
})

test('from live begins with what comes next', async (t) => {
  const { start, attach } = createRegistry(t, NEVER)
  const feed = new Feed()
  const stream = start(feed.handler, { streamId: 'a' })
  feed.push('1', '2')
  await turn()
  const { transport } = attach(stream, { from: 'live' })
  feed.push('3')
  await turn()
  t.equal(transport.events[0]?.id, `${stream.epoch}.2`)
  t.strictSame(transport.data, ['3'])
})

test('where a client begins is decided when its body starts', async (t) => {
  const { start, attach } = createRegistry(t, { ...NEVER, bufferSize: 2 })
  const feed = new Feed()
  const stream = start(feed.handler, { streamId: 'a', backpressure: 'none' })
  const late = attach(stream, { opens: false })
  const live = attach(stream, { opens: false, from: 'live' })
  for (let i = 1; i <= 5; i++) {
    feed.push(String(i))
    await turn()
  }
  late.open()
  live.open()
  await turn()
  t.strictSame(late.transport.controlData('stream-gap'), { reason: 'trimmed', missed: 3, resumesAt: 4 })
  t.strictSame(late.transport.data, ['4', '5'])
  t.strictSame(live.transport.data, [])
})

test('a body that starts after its client has left ends at once', async (t) => {
  for (const how of ['leave', 'destroy'] as const) {
    const { registry, start, attach } = createRegistry(t, NEVER)
    const client = attach(start(new Feed().handler), { opens: false })
    client.subscriber[how]()
    client.open()
    await turn()
    t.ok(client.transport.isDestroyed)
    t.equal(client.transport.writes.length, 0)
    t.match(registry.stats(), { clients: 0 })
    t.equal(registry.subscribers.size, 0)
  }
})

test('a body that starts on a dead connection leaves', async (t) => {
  const { registry, start, attach } = createRegistry(t, NEVER)
  const client = attach(start(new Feed().handler), { opens: false })
  client.transport.drop()
  client.open()
  t.ok(client.subscriber.isClosed)
  await turn()
  t.equal(registry.subscribers.size, 0)
})

test('a body starts once', async (t) => {
  const { start, attach } = createRegistry(t, NEVER)
  const client = attach(start(new Feed().handler))
  await turn()
  t.notOk(client.transport.isDestroyed)
})

// ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

test('without control events an end is an id and a clean end, anything else a cut', async (t) => {
  for (const [outcome, finish] of [
    ['end', (feed: Feed) => feed.end()],
    ['truncated', (feed: Feed) => feed.fail(new Error('x'))]
  ] as const) {
    const { start, attach } = createRegistry(t, { ...NEVER, controlEvents: false, retry: false })
    const feed = new Feed()
    const stream = start(feed.handler, { streamId: 'a' })
    const { transport } = attach(stream, { arrival: 'started' })
    feed.push('1')
    finish(feed)
    await turn()
    t.equal(transport.outcome, outcome)
    t.strictSame(transport.control, [])
    t.strictSame(transport.data, ['1'])
    t.equal(transport.lastEventId, `${stream.epoch}.${outcome === 'end' ? 'end' : '1'}`)
    t.ok(transport.text.startsWith(`id: ${stream.epoch}.0\n\n`))
  }
})

test('without control events a gap that appears until the body starts is a cut', async (t) => {
  const { registry, start, attach } = createRegistry(t, { ...NEVER, controlEvents: false, bufferSize: 1 })
  const feed = new Feed()
  const stream = start(feed.handler, { streamId: 'a', backpressure: 'none' })
  const client = attach(stream, { opens: false })
  feed.push('1', '2')
  await turn()
  client.open()
  await turn()
  t.equal(client.transport.outcome, 'truncated')
  t.strictSame(client.transport.data, [])
  t.equal(client.transport.lastEventId, `${stream.epoch}.0`, 'it confirms nothing')
  t.match(registry.stats(), { gaps: 0, replayedEvents: 0 })
})

test('leaving is idempotent', async (t) => {
  const { registry, start, attach } = createRegistry(t, NEVER)
  const stream = start(new Feed().handler)
  const client = attach(stream)
  client.subscriber.leave()
  client.subscriber.leave()
  client.subscriber.destroy()
  t.equal(stream.clients, 0)
  t.match(registry.stats(), { clients: 0, attached: 1 })
})

// ── a socket that is full ────────────────────────────────────────────────────────────────────────────────────────────

test('nothing is written to a full socket until it drains, and then exactly the rest', async (t) => {
  const { start, attach } = createRegistry(t, NEVER)
  const feed = new Feed()
  const stream = start(feed.handler)
  const { transport } = attach(stream, { reads: false, highWaterMark: 1 })
  await turn()
  t.equal(transport.writes.length, 1)
  for (let i = 1; i <= 5; i++) {
    feed.push(String(i))
    await turn()
  }
  t.equal(transport.writes.length, 1)
  transport.take()
  await turn()
  t.equal(transport.writes.length, 2, 'what came meanwhile is one slice')
  transport.resume()
  await turn()
  t.strictSame(transport.data, ['1', '2', '3', '4', '5'])
})

test('a client that drops with bytes in flight resumes after what it received', async (t) => {
  const { start, attach } = createRegistry(t, NEVER)
  const feed = new Feed()
  const stream = start(feed.handler)
  const first = attach(stream, { reads: false })
  feed.push('1', '2', '3')
  await turn()
  const total = first.transport.waitingBytes
  first.transport.take(total - 3)
  first.drop()
  await turn()
  t.strictSame(first.transport.data, ['1', '2'], 'the block that was cut is no event')
  const second = attach(stream, { lastEventId: first.transport.lastEventId })
  await turn()
  t.strictSame(second.transport.data, ['3'])
})

// ── heartbeats ───────────────────────────────────────────────────────────────────────────────────────────────────────

test('a client that was sent nothing for a while gets a comment', async (t) => {
  const { clock, start, attach } = createRegistry(t, { heartbeatInterval: 1_000, stallTimeout: Infinity })
  const { transport } = attach(start(new Feed().handler, { orphanTimeout: Infinity }))
  await turn()
  clock.advance(999)
  t.strictSame(transport.comments, [])
  clock.advance(1)
  t.strictSame(transport.comments, [''])
  clock.advance(3_000)
  t.equal(transport.comments.length, 4)
})

test('an event puts the next heartbeat off', async (t) => {
  const { clock, start, attach } = createRegistry(t, { heartbeatInterval: 1_000, stallTimeout: Infinity })
  const feed = new Feed()
  const { transport } = attach(start(feed.handler))
  await turn()
  clock.advance(900)
  feed.push('1')
  await turn()
  clock.advance(999)
  t.strictSame(transport.comments, [])
  clock.advance(1)
  t.strictSame(transport.comments, [''])
})

test('heartbeatInterval 0 sends none', async (t) => {
  const { clock, start, attach } = createRegistry(t, NEVER)
  const { transport } = attach(start(new Feed().handler))
  await turn()
  t.equal(clock.pending, 0)
  clock.advance(1_000_000)
  t.strictSame(transport.comments, [])
})

test('a heartbeat never queues behind a full socket', async (t) => {
  const { clock, start, attach } = createRegistry(t, { heartbeatInterval: 1_000, stallTimeout: Infinity })
  const feed = new Feed()
  const { transport } = attach(start(feed.handler), { reads: false, highWaterMark: 1 })
  await turn()
  feed.push('1')
  await turn()
  clock.advance(10_000)
  await turn()
  t.equal(transport.writes.length, 1)
  transport.resume()
  await turn()
  t.strictSame(transport.data, ['1'])
  clock.advance(2_000)
  t.ok(transport.comments.length > 0)
})

test('a thousand clients have one timer', async (t) => {
  const { clock, start, attach } = createRegistry(t, { heartbeatInterval: 1_000 })
  const stream = start(new Feed().handler)
  for (let i = 0; i < 1_000; i++) attach(stream)
  await turn()
  t.equal(clock.pending, 1)
  clock.advance(10_000)
  t.equal(clock.pending, 1)
})

// ── stalls ───────────────────────────────────────────────────────────────────────────────────────────────────────────

test('a client whose socket takes no byte is cut off, and can resume', async (t) => {
  const { clock, registry, start, attach } = createRegistry(t, { heartbeatInterval: 0, stallTimeout: 1_000 })
  const feed = new Feed()
  const stream = start(feed.handler)
  const stalled = attach(stream, { reads: false, highWaterMark: 1 })
  feed.push('1')
  await turn()
  clock.advance(999)
  t.equal(stalled.transport.outcome, undefined)
  clock.advance(251)
  t.equal(stalled.transport.outcome, 'destroyed')
  t.match(registry.stats(), { stalledClients: 1, clients: 0 })
  const again = attach(stream)
  await turn()
  t.strictSame(again.transport.data, ['1'])
})

test('a socket that takes a byte now and then is not stalled', async (t) => {
  const { clock, start, attach } = createRegistry(t, { heartbeatInterval: 0, stallTimeout: 1_000 })
  const feed = new Feed()
  const { transport } = attach(start(feed.handler), { reads: false, highWaterMark: 1 })
  feed.push('x'.repeat(10_000))
  await turn()
  for (let i = 0; i < 50; i++) {
    clock.advance(700)
    transport.take(1)
    await turn()
  }
  t.equal(transport.outcome, undefined)
  clock.advance(1_500)
  t.equal(transport.outcome, 'destroyed')
})

test('a client with nothing waiting is not stalled, however long nothing comes', async (t) => {
  const { clock, registry, start, attach } = createRegistry(t, { heartbeatInterval: 0, stallTimeout: 1_000 })
  const { transport } = attach(start(new Feed().handler))
  await turn()
  clock.advance(1_000_000)
  t.equal(transport.outcome, undefined)
  t.match(registry.stats(), { stalledClients: 0 })
})

test('the time counts from when bytes wait, not from the last look', async (t) => {
  const { clock, start, attach } = createRegistry(t, { heartbeatInterval: 0, stallTimeout: 1_000 })
  const feed = new Feed()
  const { transport } = attach(start(feed.handler))
  await turn()
  clock.advance(2_999)
  transport.isReading = false
  feed.push('1')
  await turn()
  t.ok(transport.waitingBytes > 0)
  clock.advance(999)
  t.equal(transport.outcome, undefined)
  clock.advance(2_000)
  t.equal(transport.outcome, 'destroyed')
})

test('an end that nobody takes is cut off too, but not before its time', async (t) => {
  for (const size of [0, 50_000]) {
    const { clock, registry, start, attach } = createRegistry(t, { heartbeatInterval: 0, stallTimeout: 1_000 })
    const feed = new Feed()
    const stream = start(feed.handler)
    const { transport } = attach(stream)
    await turn()
    clock.advance(2_999)
    transport.isReading = false
    transport.highWaterMark = Infinity
    if (size > 0) feed.push('x'.repeat(size))
    feed.end()
    await turn()
    await turn()
    t.equal(transport.outcome, 'end')
    t.equal(stream.clients, 0)
    clock.advance(999)
    t.notOk(transport.isDestroyed)
    clock.advance(251)
    t.ok(transport.isDestroyed)
    await turn()
    t.equal(registry.subscribers.size, 0)
  }
})

test('stallTimeout Infinity waits for ever', async (t) => {
  const { clock, start, attach } = createRegistry(t, NEVER)
  const feed = new Feed()
  const { transport } = attach(start(feed.handler), { reads: false, highWaterMark: 1 })
  feed.push('1')
  await turn()
  clock.advance(1_000_000_000)
  t.equal(transport.outcome, undefined)
})

test('a heartbeat that nobody takes ends in a stall: a half-open peer is found', async (t) => {
  const { clock, start, attach } = createRegistry(t, { heartbeatInterval: 1_000, stallTimeout: 5_000 })
  const { transport } = attach(start(new Feed().handler))
  await turn()
  transport.isReading = false
  clock.advance(20_000)
  t.equal(transport.outcome, 'destroyed')
})

// ── age ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

test('a response older than maxConnectionAge is truncated, and its client goes on elsewhere', async (t) => {
  const { clock, start, attach } = createRegistry(t, { ...NEVER, maxConnectionAge: 10_000 })
  const feed = new Feed()
  const stream = start(feed.handler)
  const { transport } = attach(stream)
  feed.push('1')
  await turn()
  clock.advance(7_999)
  t.equal(transport.outcome, undefined)
  clock.advance(4_002)
  t.equal(transport.outcome, 'truncated')
  feed.push('2')
  await turn()
  const again = attach(stream, { lastEventId: transport.lastEventId })
  await turn()
  t.strictSame(again.transport.data, ['2'])
})

test('responses that began together do not end together', async (t) => {
  const { clock, start, attach } = createRegistry(t, { ...NEVER, maxConnectionAge: 10_000 })
  const stream = start(new Feed().handler)
  const clients = Array.from({ length: 50 }, () => attach(stream))
  await turn()
  const ended = (): number => clients.filter(({ transport }) => transport.outcome !== undefined).length
  clock.advance(10_000)
  t.ok(ended() > 0 && ended() < 50, `${ended()}`)
})

test('maxConnectionAge counts for a client that is stalled, too', async (t) => {
  const { clock, start, attach } = createRegistry(t, { ...NEVER, maxConnectionAge: 10_000 })
  const feed = new Feed()
  const { transport } = attach(start(feed.handler), { reads: false, highWaterMark: 1 })
  feed.push('1')
  await turn()
  clock.advance(13_000)
  t.equal(transport.outcome, 'truncated')
})
