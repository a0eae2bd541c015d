import { once } from 'node:events'
import { connect as connectHttp2, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Sample } from '../fixtures/memory-server.ts'
import { MemoryServer } from '../helpers/memory-server.ts'
import { RawReader } from '../helpers/raw-reader.ts'

const KIB = 1024
const MIB = 1024 * KIB

const SLICE_BYTES = 64 * KIB
// A stream holds at most its window and the segment in front of it that is trimmed, and one that is being filled: segments
// are an eighth of the window, at most 256 KiB, and a frame may have one of its own.
const SEGMENT_BYTES = 256 * KIB
/** What a process may take beyond what it was told to: a heap that is not collected yet, buffers of the kernel's reads. */
const MARGIN_BYTES = 96 * MIB
/** What Node holds for one connection with its request. */
const CONNECTION_BYTES = 40 * KIB

function assertHeld(t: Test, sample: Sample, { baseline }: MemoryServer, limits: { log: number; clients: number }): void {
  const { max } = sample
  t.ok(max.bufferedBytes <= limits.log + 3 * SEGMENT_BYTES, `logs held ${max.bufferedBytes} bytes at most`)
  t.ok(max.largestBacklogBytes <= 2 * SLICE_BYTES, `one socket held ${max.largestBacklogBytes} bytes at most`)
  const clientBytes = limits.clients * (2 * SLICE_BYTES + CONNECTION_BYTES)
  const allowed = baseline.rssBytes + limits.log + clientBytes + MARGIN_BYTES
  t.ok(max.rssBytes <= allowed, `the process held ${mib(max.rssBytes)} at most, ${mib(allowed)} are allowed`)
}

function mib(bytes: number): string {
  return `${Math.round(bytes / MIB)} MiB`
}

t.test('a reader that stops costs one slice, whatever is yielded', async (t) => {
  const server = await MemoryServer.start(t, { backpressure: 'none', stallTimeout: Infinity })
  const reader = await RawReader.open(t, server.port, '/flood?id=a&count=4096&bytes=65536', KIB)
  const sample = await server.sampleUntil('the end of the flood', ({ finished }) => finished === 1)
  assertHeld(t, sample, server, { log: 8 * MIB, clients: 1 })
  t.equal(sample.events, 4_096)
  t.ok(reader.bytes <= 2 * KIB)
})

t.test('a reader that stops holds the producer up, where it paces', async (t) => {
  const server = await MemoryServer.start(t, { stallTimeout: Infinity })
  await RawReader.open(t, server.port, '/flood?id=a&count=4096&bytes=65536', KIB)
  let events = -1
  const sample = await server.sampleUntil('the producer waits', (now) => {
    const isStill = now.events === events && now.events > 0
    events = now.events
    return isStill
  })
  assertHeld(t, sample, server, { log: 8 * MIB, clients: 1 })
  t.ok(sample.events < 4_096 / 8, `${sample.events} events were yielded`)
  t.equal(sample.running, 1)
})

t.test('a reader that stops is cut off after stallTimeout, and nothing of it stays', async (t) => {
  const server = await MemoryServer.start(t, { backpressure: 'none', stallTimeout: 200, bufferTTL: 0 })
  const reader = await RawReader.open(t, server.port, '/flood?id=a&count=4096&bytes=65536', KIB)
  const sample = await server.sampleUntil('nobody is left', ({ clients, stalledClients, finished, events }) =>
    clients === 0 && events === 4_096 && (stalledClients === 1 || finished === 0)
  )
  assertHeld(t, sample, server, { log: 8 * MIB, clients: 1 })
  reader.allow(Infinity)
  const empty = await server.sampleUntil('the registry is empty', ({ bufferedBytes }) => bufferedBytes === 0)
  t.equal(empty.backlogBytes, 0)
})

t.test('a reader of a byte at a time costs no more than one that stops', async (t) => {
  const server = await MemoryServer.start(t, { backpressure: 'none', stallTimeout: Infinity })
  const reader = await RawReader.open(t, server.port, '/flood?id=a&count=4096&bytes=65536', 1, 1)
  for (let bytes = 0; bytes < 100; bytes++) {
    await delay(2)
    reader.allow(1)
  }
  const sample = await server.sampleUntil('the end of the flood', ({ finished }) => finished === 1)
  assertHeld(t, sample, server, { log: 8 * MIB, clients: 1 })
  t.ok(reader.bytes > 50 && reader.bytes < 1_000, `it has read ${reader.bytes} bytes`)
})

t.test('peers that never read, though their heartbeats succeed, cost what their connections cost', async (t) => {
  const CLIENTS = 200
  const server = await MemoryServer.start(t, { heartbeatInterval: 2 })
  for (let i = 0; i < CLIENTS; i++) await RawReader.open(t, server.port, '/idle?id=a', KIB)
  const before = await server.sampleUntil('all are attached', ({ clients }) => clients === CLIENTS)
  await delay(1_500)
  const after = await server.sample()
  assertHeld(t, after, server, { log: KIB, clients: CLIENTS })
  t.equal(after.backlogBytes, 0)
  t.ok(after.heapBytes < before.heapBytes + 8 * MIB, `the heap went from ${mib(before.heapBytes)} to ${mib(after.heapBytes)}`)
})

interface Stalled {
  readonly session: ClientHttp2Session
  readonly streams: ClientHttp2Stream[]
}

/** A session whose streams grant no window: nothing of a body is ever taken. */
async function openStalledSession(t: Test, port: number, path: string, streams: number): Promise<Stalled> {
  const session = connectHttp2(`http://127.0.0.1:${port}`, { settings: { initialWindowSize: 0 } })
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  await once(session, 'localSettings')
  const opened = Array.from({ length: streams }, () => {
    const stream = session.request({ ':path': path, accept: 'text/event-stream' })
    stream.on('error', () => {})
    return stream
  })
  await Promise.all(opened.map((stream) => once(stream, 'response')))
  return { session, streams: opened }
}

t.test('1 000 stalled clients of one stream share its log', async (t) => {
  const server = await MemoryServer.start(t, { backpressure: 'none', stallTimeout: Infinity }, true)
  const path = '/flood?id=a&count=2048&bytes=65536'
  for (let i = 0; i < 10; i++) await openStalledSession(t, server.port, path, 100)
  const sample = await server.sampleUntil('the end of the flood', ({ finished }) => finished === 1)
  t.equal(sample.events, 2_048)
  // They come one after the other and stall where they come, so each may pin another slice.
  assertHeld(t, sample, server, { log: 8 * MIB, clients: 1_000 })
})

t.test('1 000 stalled clients are cut off after stallTimeout', async (t) => {
  const server = await MemoryServer.start(t, { backpressure: 'none', stallTimeout: 500, bufferTTL: 0 }, true)
  const path = '/flood?id=a&count=2048&bytes=65536'
  const sessions: Stalled[] = []
  for (let i = 0; i < 10; i++) sessions.push(await openStalledSession(t, server.port, path, 100))
  const sample = await server.sampleUntil('nobody is left', ({ clients, running }) => clients === 0 && running === 0)
  t.equal(sample.bufferedBytes, 0)
  assertHeld(t, sample, server, { log: 8 * MIB, clients: 1_000 })
})

t.test('an HTTP/2 session of 100 streams of which one stalls: its siblings go on', async (t) => {
  const server = await MemoryServer.start(t, { backpressure: 'none', stallTimeout: Infinity }, true)
  const session = connectHttp2(`http://127.0.0.1:${server.port}`)
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  await once(session, 'connect')
  // The window of the whole connection; that of each stream stays at 64 KiB.
  session.setLocalWindowSize(64 * MIB)
  const open = (id: number): ClientHttp2Stream => session.request({ ':path': `/flood?id=s${id}&count=64&bytes=16384` })
  const stalled = open(0)
  await once(stalled, 'response')
  const siblings = Array.from({ length: 99 }, (_, index) => open(index + 1))
  const lengths = await Promise.all(
    siblings.map(async (sibling) => {
      let length = 0
      sibling.on('data', (data: Buffer) => (length += data.length))
      await once(sibling, 'end')
      return length
    })
  )
  t.ok(lengths.every((length) => length > 64 * 16_384))
  const sample = await server.sample()
  assertHeld(t, sample, server, { log: 100 * 64 * 17 * KIB, clients: 100 })
  t.equal(sample.clients, 1)
})

t.test('a client that comes back in a loop for the whole replay costs one client', async (t) => {
  const server = await MemoryServer.start(t, { bufferBytes: 16 * MIB, stallTimeout: Infinity })
  server.flood('a', 1, 200, 65_536)
  await server.sampleUntil('the stream has finished', ({ finished }) => finished === 1)
  const before = await server.sample()
  for (let i = 0; i < 150; i++) {
    const reader = await RawReader.open(t, server.port, '/flood?id=a0&count=1&bytes=1', KIB)
    if (reader.bytes === 0) await once(reader.socket, 'ready').catch(() => {})
    await delay(1)
    reader.socket.destroy()
  }
  const after = await server.sampleUntil('all have left', ({ clients, backlogBytes }) => clients === 0 && backlogBytes === 0)
  assertHeld(t, after, server, { log: 16 * MIB, clients: 150 })
  t.equal(after.bufferedBytes, before.bufferedBytes)
  t.ok(after.heapBytes < before.heapBytes + 8 * MIB, 'nothing of them stays')
})

t.test('a generator of 1 GiB without a client is held to its window', async (t) => {
  const server = await MemoryServer.start(t, {})
  server.flood('a', 1, 4_096, 256 * KIB)
  const sample = await server.sampleUntil('the end of the flood', ({ finished }) => finished === 1)
  assertHeld(t, sample, server, { log: 8 * MIB, clients: 0 })
  t.equal(sample.events, 4_096)
})

t.test('many streams are held to maxTotalBufferBytes together', async (t) => {
  const server = await MemoryServer.start(t, { maxTotalBufferBytes: 16 * MIB })
  server.flood('a', 50, 64, 65_536)
  const sample = await server.sampleUntil('the end of the floods', ({ events }) => events === 50 * 64)
  t.ok(sample.max.bufferedBytes <= 16 * MIB, `logs held ${sample.max.bufferedBytes} bytes at most`)
  assertHeld(t, sample, server, { log: 16 * MIB, clients: 0 })
})

t.test('10 000 tiny streams cost about what they hold', async (t) => {
  const STREAMS = 10_000
  const server = await MemoryServer.start(t, { maxActiveStreams: STREAMS })
  server.flood('a', STREAMS, 3, 10)
  const sample = await server.sampleUntil('all have finished', ({ finished }) => finished === STREAMS)
  const each = (sample.heapBytes - server.baseline.heapBytes) / STREAMS
  t.ok(each < 4 * KIB, `each costs ${Math.round(each)} bytes`)
  t.ok(sample.bufferedBytes < STREAMS * 256, `the logs hold ${sample.bufferedBytes / STREAMS} bytes each`)
  assertHeld(t, sample, server, { log: 10 * MIB, clients: 0 })
})
