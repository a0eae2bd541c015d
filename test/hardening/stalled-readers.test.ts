import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { assertHeld, KIB, MemoryServer, MIB } from '../helpers/memory-server.ts'
import { RawReader } from '../helpers/raw-reader.ts'

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
  const sample = await server.sampleUntil(
    'nobody is left',
    ({ clients, stalledClients, finished, events }) =>
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
