import { once } from 'node:events'
import { connect as connectHttp2, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import t, { type Test } from 'tap'
import { assertHeld, KIB, MemoryServer, MIB } from '../helpers/memory-server.ts'

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
