import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { assertHeld, KIB, mib, MemoryServer, MIB } from '../helpers/memory-server.ts'
import { RawReader } from '../helpers/raw-reader.ts'

t.test('peers that never read, though their heartbeats succeed, cost what their connections cost', async (t) => {
  const CLIENTS = 200
  const server = await MemoryServer.start(t, { heartbeatInterval: 2 })
  for (let i = 0; i < CLIENTS; i++) await RawReader.open(t, server.port, '/idle?id=a', KIB)
  const before = await server.sampleUntil('all are attached', ({ clients }) => clients === CLIENTS)
  await delay(1_500)
  const after = await server.sample()
  assertHeld(t, after, server, { log: KIB, clients: CLIENTS })
  t.equal(after.backlogBytes, 0)
  t.ok(
    after.heapBytes < before.heapBytes + 8 * MIB,
    `the heap went from ${mib(before.heapBytes)} to ${mib(after.heapBytes)}`
  )
})

t.test('a client that comes back in a loop for the whole replay costs one client', async (t) => {
  const server = await MemoryServer.start(t, { bufferBytes: 16 * MIB, stallTimeout: Infinity })
  server.flood('a', 1, 200, 65_536)
  await server.sampleUntil('the stream has finished', ({ finished }) => finished === 1)
  const before = await server.sample()
  for (let i = 0; i < 150; i++) {
    const reader = await RawReader.open(t, server.port, '/flood?id=a0&count=1&bytes=1', KIB)
    reader.socket.destroy()
  }
  const after = await server.sampleUntil(
    'all have left',
    ({ clients, backlogBytes }) => clients === 0 && backlogBytes === 0
  )
  assertHeld(t, after, server, { log: 16 * MIB, clients: 150 })
  t.equal(after.bufferedBytes, before.bufferedBytes)
  t.ok(after.heapBytes < before.heapBytes + 8 * MIB, 'nothing of them stays')
})
