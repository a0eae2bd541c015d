import t from 'tap'
import { assertHeld, KIB, MemoryServer, MIB } from '../helpers/memory-server.ts'

t.test('a generator of 1 GiB without a client is held to its window', async (t) => {
  const server = await MemoryServer.start(t, {})
  server.flood('a', 1, 4_096, 256 * KIB)
  const sample = await server.sampleUntil('the end of the flood', ({ finished }) => finished === 1)
  assertHeld(t, sample, server, { log: 8 * MIB, clients: 0 })
  t.equal(sample.events, 4_096)
})

t.test('many streams are held to maxTotalBufferBytes together', async (t) => {
  const STREAMS = 50
  const server = await MemoryServer.start(t, { maxTotalBufferBytes: 16 * MIB })
  server.flood('a', STREAMS, 64, 65_536)
  const sample = await server.sampleUntil('the end of the floods', ({ events }) => events === STREAMS * 64)
  // The newest event of a running stream is always retained: bytes abort nobody, and nothing is dropped.
  const allowed = 16 * MIB + STREAMS * 2 * 64 * KIB
  t.ok(sample.max.bufferedBytes <= allowed, `logs held ${sample.max.bufferedBytes} bytes at most`)
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
