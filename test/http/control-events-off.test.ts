import t, { type Test } from 'tap'
import type { SseInput, StreamOptions } from '../../src/index.ts'
import { numbers, numbersFrom } from '../helpers/numbers.ts'
import { severalInstances } from '../helpers/shared-store.ts'
import type { SseClient } from '../helpers/sse-client.ts'
import { startApp, type App } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'

// Clients of this mode parse every `data:` as their own JSON; nothing else may carry data.

interface Quiet {
  readonly app: App
  readonly gate: StepGate
}

async function startQuiet(
  t: Test,
  handler: (signal: AbortSignal) => AsyncIterable<SseInput>,
  options: StreamOptions = {}
): Promise<App> {
  return startApp(
    t,
    (fastify) => {
      fastify.get('/', (_, reply) => reply.sseFromGenerator(handler, { streamId: 's', ...options }))
      fastify.get('/attach', (_, reply) => reply.sseAttach('s'))
    },
    { plugin: { controlEvents: false } }
  )
}

async function startNumbers(t: Test, count: number, options: StreamOptions = {}): Promise<Quiet> {
  const gate = new StepGate()
  return { app: await startQuiet(t, numbers(count, gate), options), gate }
}

async function readFinished(
  t: Test,
  count: number,
  options: StreamOptions = {}
): Promise<Quiet & { client: SseClient; epoch: string }> {
  const { app, gate } = await startNumbers(t, count, options)
  const client = await app.open('/')
  gate.release(count)
  await client.waitForEnd()
  await app.untilShared('s')
  return { app, gate, client, epoch: client.lastEventId?.split('.')[0] ?? '' }
}

t.test('the first block is retry and id only', async (t) => {
  const { app } = await startNumbers(t, 1)
  const client = await app.open('/')
  await client.waitUntil('the first block', () => /\.0\n\n/.test(client.text))
  t.match(client.text, /^retry: \d+\n(?:\n)?id: [\w-]{8}\.0\n\n$/)
})

t.test('a drop before the first event resumes, for clients that take an id without data', async (t) => {
  const { app, gate } = await startNumbers(t, 2)
  const client = await app.open('/')
  await client.waitUntil('the first block', () => client.lastEventId !== undefined)
  const resumed = await client.reconnect()
  gate.release(2)
  t.equal(await resumed.waitForEnd(), 'end')
  t.same(resumed.data, ['1', '2'])
  t.equal(app.streams.stats().started, 1)
})

t.test('a clean end is a terminal block without data and a clean end of the body', async (t) => {
  const { client, epoch } = await readFinished(t, 2)
  t.equal(await client.waitForEnd(), 'end')
  t.ok(client.text.endsWith(`data: 2\nid: ${epoch}.2\n\nid: ${epoch}.end\n\n`))
  t.same(
    client.events.map(({ event, data }) => [event, data]),
    [
      [undefined, '1'],
      [undefined, '2']
    ]
  )
  t.equal((await client.reconnect()).status, 204)
})

t.test('a client at the end of a finished stream gets 204 before any header of a stream', async (t) => {
  const { app, epoch } = await readFinished(t, 2)
  const client = await app.open('/', { lastEventId: `${epoch}.2` })
  t.equal(client.status, 204)
})

t.test('a client in the middle gets exactly the rest', async (t) => {
  const { app, epoch } = await readFinished(t, 4)
  for (let sequence = 0; sequence < 4; sequence++) {
    const client = await app.open('/', { lastEventId: `${epoch}.${sequence}` })
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, numbersFrom(sequence + 1, 4))
    t.equal(client.events.length, client.data.length)
  }
})

t.test('a failure truncates the body, and says nothing', async (t) => {
  const app = await startQuiet(t, async function* () {
    yield 'before'
    throw new Error('secret')
  })
  const client = await app.open('/')
  t.equal(await client.waitForEnd(), 'truncated')
  t.same(
    client.events.map(({ data }) => data),
    ['before']
  )
  t.notMatch(client.text, /\.end|secret|\.2/)

  await app.untilShared('s')
  const resumed = await client.reconnect()
  t.equal(resumed.status, 204, 'it has every event of the generator, whatever the outcome')
})

t.test('a client that misses events of a failed stream gets them, and a truncated body', async (t) => {
  const app = await startQuiet(t, async function* () {
    yield 'a'
    yield 'b'
    throw new Error('x')
  })
  const client = await app.open('/')
  await client.waitForEnd()
  await app.untilShared('s')
  const again = await client.reconnect({ lastEventId: client.events[0]?.id })
  t.equal(again.status, 200)
  t.equal(await again.waitForEnd(), 'truncated')
  t.same(again.data, ['b'])
})

t.test('an abort truncates the body, and the reconnect gets 204', async (t) => {
  const { app, gate } = await startNumbers(t, 2)
  const client = await app.open('/')
  gate.release(1)
  await client.waitForData(1)
  await app.streams.abort('s')
  t.equal(await client.waitForEnd(), 'truncated')
  t.notMatch(client.text, '.end')
  await app.untilShared('s')
  t.equal((await client.reconnect()).status, 204)
})

t.test('a cursor that cannot be served gets 204', async (t) => {
  t.test('trimmed', async (t) => {
    const { app, epoch } = await readFinished(t, 5, { bufferSize: 2, backpressure: 'none' })
    t.equal((await app.open('/', { lastEventId: `${epoch}.1` })).status, 204)
    const served = await app.open('/', { lastEventId: `${epoch}.3` })
    await served.waitForEnd()
    t.same(served.data, ['4', '5'])
  })

  t.test('reset', async (t) => {
    const { app } = await startNumbers(t, 1)
    await app.open('/')
    for (const lastEventId of ['BBBBBBBB.0', 'BBBBBBBB.1', 'junk']) {
      for (const path of ['/', '/attach']) t.equal((await app.open(path, { lastEventId })).status, 204)
    }
  })

  t.test('lost, whatever onLost says', async (t) => {
    for (const onLost of ['end', 'restart'] as const) {
      const { app } = await startNumbers(t, 1, { onLost })
      for (const lastEventId of ['BBBBBBBB.1', 'junk']) t.equal((await app.open('/', { lastEventId })).status, 204)
      t.equal((await app.open('/attach', { lastEventId: 'BBBBBBBB.1' })).status, 204)
      t.equal(app.streams.stats().started, 0)
    }
  })
})

t.test('a client without a cursor', async (t) => {
  t.test('gets the full replay', async (t) => {
    const { app } = await readFinished(t, 3)
    const client = await app.open('/')
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1', '2', '3'])
  })

  t.test('gets 204 if the log no longer begins at event 1', async (t) => {
    const { app } = await readFinished(t, 3, { bufferSize: 2, backpressure: 'none' })
    t.equal((await app.open('/')).status, 204)
    t.equal((await app.open('/attach')).status, 204)
  })

  t.test('gets 204 if the stream finished without any event', async (t) => {
    const { app } = await readFinished(t, 0)
    t.equal((await app.open('/')).status, 204)
  })
})

t.test('per call it wins over the plugin, in both directions', async (t) => {
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get('/off', (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: 'off', controlEvents: false }))
      fastify.get('/on', (_, reply) => reply.sseAttach('off', { controlEvents: true }))
    },
    { plugin: { controlEvents: true } }
  )
  const off = await app.open('/off')
  await off.waitForEnd()
  t.equal(off.events.length, 1)
  const on = await app.open('/on')
  await on.waitForEnd()
  t.same(
    on.events.map(({ event }) => event),
    ['stream-start', undefined, 'stream-end']
  )
})

t.test(
  'a stream whose home is gone truncates the body elsewhere, and the reconnect gets 204',
  severalInstances,
  async (t) => {
    const { app, gate } = await startNumbers(t, 2)
    await app.at(0).open('/')
    const client = await app.at(1).open('/')
    gate.release(1)
    await client.waitForData(1)
    await app.at(0).close()
    t.equal(await client.waitForEnd(), 'truncated')
    t.same(
      client.events.map(({ data }) => data),
      ['1']
    )
    t.notMatch(client.text, '.end')
    t.equal((await app.at(1).open('/', { lastEventId: client.lastEventId })).status, 204)
  }
)
