// What an event costs, in counts that no machine changes: a guard for what the benchmark measures in time. The clock stands
// still, or a busy machine would end a turn of the event loop in the middle, and one write would become two.
import { Socket } from 'node:net'
import t, { type Test } from 'tap'
import { Feed } from '../helpers/feed.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { startApp } from '../helpers/start-app.ts'

/** Writes that reach the connections of servers, by number and by size. */
class WriteCounter {
  writes = 0
  bytes = 0

  static install(t: Test): WriteCounter {
    const counter = new WriteCounter()
    const { _write, _writev } = Socket.prototype as unknown as Record<'_write' | '_writev', (...args: never[]) => void>
    const isServed = (socket: object): boolean => 'server' in socket && socket.server != null
    Object.assign(Socket.prototype, {
      _write(this: Socket, ...args: [Buffer | string, never, never]) {
        if (isServed(this)) counter.#add([args[0]])
        return _write.apply(this, args as never)
      },
      _writev(this: Socket, ...args: [{ chunk: Buffer | string }[], never]) {
        if (isServed(this)) counter.#add(args[0].map(({ chunk }) => chunk))
        return _writev.apply(this, args as never)
      }
    })
    t.teardown(() => Object.assign(Socket.prototype, { _write, _writev }))
    return counter
  }

  #add(chunks: (Buffer | string)[]): void {
    this.writes += 1
    for (const chunk of chunks) this.bytes += chunk.length
  }

  reset(): void {
    this.writes = 0
    this.bytes = 0
  }
}

const CLIENTS = 10
// Size in hex and two line ends around each chunk.
const CHUNK_FRAMING_BYTES = 12

t.test('an event is one write per client, and a burst of one turn is one, too', async (t) => {
  const feed = new Feed()
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get('/', (_, reply) => reply.sseFromGenerator(feed.handler, { streamId: 'shared' }))
    },
    { clock: new ManualClock() }
  )
  const clients = await Promise.all(Array.from({ length: CLIENTS }, () => app.open('/')))
  feed.push('first')
  await Promise.all(clients.map((client) => client.waitFor(({ data }) => data === 'first')))

  const counter = WriteCounter.install(t)
  const wireBytes = async (...data: string[]): Promise<number> => {
    counter.reset()
    const before = app.fastify.sseStreams.get('shared')
    feed.push(...data)
    await Promise.all(clients.map((client) => client.waitFor((event) => event.data === data.at(-1))))
    t.equal((app.fastify.sseStreams.get('shared')?.lastSequence ?? 0) - (before?.lastSequence ?? 0), data.length)
    return data.reduce((sum, text, i) => sum + frameBytes(clients[0]?.lastEventId ?? '', text, data.length - 1 - i), 0)
  }
  for (const text of ['one', 'x'.repeat(4_000)]) {
    const bytes = await wireBytes(text)
    t.equal(counter.writes, CLIENTS)
    t.ok(counter.bytes <= CLIENTS * (bytes + CHUNK_FRAMING_BYTES), `${counter.bytes} bytes`)
  }
  const burst = await wireBytes(...Array.from({ length: 8 }, (_, i) => `burst ${i}`))
  t.equal(counter.writes, CLIENTS)
  t.ok(counter.bytes <= CLIENTS * (burst + CHUNK_FRAMING_BYTES), `${counter.bytes} bytes`)
})

// Of an event that came `back` events before the one with this id.
function frameBytes(lastEventId: string, data: string, back: number): number {
  const [epoch, sequence] = lastEventId.split('.')
  return `data: ${data}\nid: ${epoch}.${Number(sequence) - back}\n\n`.length
}

t.test('a stream that is short takes one write', async (t) => {
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get('/', (_, reply) => reply.sseFromGenerator(() => ['a', 'b', 'c'], { streamId: 'short' }))
    },
    { clock: new ManualClock() }
  )
  const counter = WriteCounter.install(t)
  await (await app.open('/')).waitForEnd()
  t.equal(counter.writes, 1, 'of one that begins and ends in one turn')
  counter.reset()
  await (await app.open('/')).waitForEnd()
  t.equal(counter.writes, 1, 'of one that was there')
})

t.test('the head of a stream that waits is a write of its own and does not wait with it', async (t) => {
  const feed = new Feed()
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get('/', (_, reply) => reply.sseFromGenerator(feed.handler, { streamId: 'waiting' }))
    },
    { clock: new ManualClock() }
  )
  const counter = WriteCounter.install(t)
  await app.open('/')
  t.equal(counter.writes, 1)
})

t.test('a replay is one write per slice', async (t) => {
  const events = 10_000
  const app = await startApp(
    t,
    (fastify) => {
      const data = Array.from({ length: events }, (_, i) => `event ${i}`)
      fastify.get('/', (_, reply) => reply.sseFromGenerator(() => data, { streamId: 'long' }))
    },
    { clock: new ManualClock() }
  )
  await (await app.open('/')).waitForEnd()
  const info = app.fastify.sseStreams.get('long')
  const counter = WriteCounter.install(t)
  await (await app.open('/')).waitForEnd()
  // A slice is a segment without its index, and the first segments of a stream are small: 512 bytes, and doubling.
  const small = Math.log2(65_536 / 512) + 1
  t.ok(counter.writes <= Math.ceil((info?.bufferedBytes ?? 0) / 60_000) + small + 1, `${counter.writes} writes`)
})

t.test('a stream has one timer, and a finished one holds hardly more than its bytes on the wire', async (t) => {
  const clock = new ManualClock()
  const app = await startApp(t, () => {}, { clock })
  const { sseStreams } = app.fastify
  const events = 100
  const data = 'x'.repeat(170)
  const streams = 50
  await Promise.all(
    Array.from({ length: streams }, () => sseStreams.start(() => Array.from({ length: events }, () => data)))
  )
  while (sseStreams.stats().finished < streams) await new Promise((resolve) => setImmediate(resolve))
  t.equal(clock.pending, streams)
  const wireBytes = streams * events * (data.length + 'data: \nid: .\n\n'.length + 22 + 2)
  t.ok(sseStreams.stats().bufferedBytes <= 1.05 * wireBytes, `${sseStreams.stats().bufferedBytes} of ${wireBytes}`)
})
