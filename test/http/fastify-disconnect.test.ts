import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { numbers } from '../helpers/numbers.ts'
import { startApp, type App, type AppOptions } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'
import { turn } from '../helpers/turns.ts'

interface Started {
  readonly app: App
  readonly gate: StepGate
  /** `/waits` waits here, before it streams. */
  readonly handler: StepGate
  /** How many requests wait there, and how many of their clients have left by now. */
  readonly waiting: { handlers: number; left: number }
  /** Resolves when the server has heard of so many clients at this moment. */
  untilClients(count: number): Promise<void>
}

async function start(t: Test, options: AppOptions = {}): Promise<Started> {
  const gate = new StepGate()
  const handler = new StepGate()
  const waiting = { handlers: 0, left: 0 }
  const never = new AbortController().signal
  const app = await startApp(
    t,
    (fastify) => {
      fastify.all('/', (_, reply) => reply.sseFromGenerator(numbers(9, gate), { streamId: 's' }))
      fastify.all('/waits', async (_, reply) => {
        waiting.handlers++
        reply.raw.once('close', () => waiting.left++)
        await handler.pass(never)
        return reply.sseFromGenerator(numbers(9, gate), { streamId: 's' })
      })
      fastify.get('/plain', async () => 'plain')
      fastify.get('/short', (_, reply) => reply.sseFromGenerator(numbers(2)))
    },
    options
  )
  const { sseStreams } = app.fastify
  const untilClients = (count: number): Promise<void> =>
    eventually(`${count} clients`, () => sseStreams.stats().clients === count)
  return { app, gate, handler, waiting, untilClients }
}

/** A connection that a test writes requests to; `text()` is all that came back. */
function openSocket(
  t: Test,
  port: number
): { socket: Socket; text: () => string; until: (wanted: RegExp) => Promise<void> } {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  let text = ''
  socket.on('data', (bytes) => (text += String(bytes)))
  socket.on('error', () => {})
  const until = (wanted: RegExp): Promise<void> => eventually(String(wanted), () => wanted.test(text))
  return { socket, text: () => text, until }
}

function get(path: string, ...headers: string[]): string {
  return [`GET ${path} HTTP/1.1`, 'host: 127.0.0.1', ...headers, '\r\n'].join('\r\n')
}

for (const protocol of ['http/1.1', 'h2'] as const) {
  t.test(`a client that leaves is noticed on ${protocol}`, async (t) => {
    const requests = {
      GET: {},
      'POST with a body': { body: { prompt: 'x' } },
      'POST without a body': { method: 'POST' }
    }
    for (const [name, request] of Object.entries(requests)) {
      t.test(name, async (t) => {
        const { app, gate, untilClients } = await start(t, { http2: protocol === 'h2' })
        const client = await app.open('/', request)
        gate.release(1)
        await client.waitForData(1)
        t.equal(app.streams.get('s')?.clients, 1, 'still there when its body is read')
        await client.drop()
        await untilClients(0)
        t.equal(app.streams.get('s')?.state, 'running', 'the run goes on')
      })
    }
  })

  t.test(`a client that leaves before its handler streams is noticed on ${protocol}`, async (t) => {
    for (const body of [undefined, { prompt: 'x' }]) {
      t.test(body ? 'POST' : 'GET', async (t) => {
        const clock = new ManualClock()
        const { app, handler, waiting, untilClients } = await start(t, {
          http2: protocol === 'h2',
          clock,
          plugin: { orphanTimeout: 1_000 }
        })
        const client = app.send('/waits', { body })
        await eventually('the handler', () => waiting.handlers === 1)
        await client.drop()
        await eventually('the client has left', () => waiting.left === 1)
        handler.release(1)
        await eventually('the stream', () => app.streams.size === 1)
        await untilClients(0)
        clock.advance(1_000)
        await eventually('its end', () => app.streams.get('s')?.state === 'finished')
        t.equal(app.streams.get('s')?.outcome, 'aborted', 'an orphan like any other')
      })
    }
  })
}

t.test('a half-closed connection is a client that left', async (t) => {
  const { app, untilClients } = await start(t)
  const { socket, until } = openSocket(t, app.port)
  socket.write(get('/'))
  await until(/stream-start/)
  socket.end()
  await untilClients(0)
  t.equal(app.streams.get('s')?.state, 'running')
})

t.test('pipelined requests', async (t) => {
  t.test('are answered in turn, on one connection', async (t) => {
    const { app } = await start(t)
    const { socket, text, until } = openSocket(t, app.port)
    socket.write(get('/short') + get('/plain') + get('/short'))
    await until(/stream-end.*plain.*stream-end[^\0]*0\r\n\r\n$/s)
    t.equal(text().match(/HTTP\/1\.1 200 OK/g)?.length, 3)
    t.equal(app.streams.stats().clients, 0)
  })

  // On Node 20 its response never closes; the socket tells.
  t.test('a stream whose turn has not come leaves with the connection', async (t) => {
    const { app, untilClients } = await start(t)
    const { socket, until } = openSocket(t, app.port)
    socket.write(get('/') + get('/') + get('/'))
    await until(/stream-start/)
    await untilClients(3)
    socket.destroy()
    await untilClients(0)
    t.equal(app.streams.get('s')?.clients, 0)
  })

  t.test('an answer without a stream has its time from its turn on', async (t) => {
    const clock = new ManualClock()
    const { app, gate } = await start(t, { clock, plugin: { stallTimeout: 1_000 } })
    const { socket, until } = openSocket(t, app.port)
    socket.write(get('/') + get('/short', 'last-event-id: BBBBBBBB.1'))
    await until(/stream-start/)
    await eventually('the answer', () => app.streams.stats().gaps === 1)
    clock.advance(1_000)
    gate.release(9)
    await until(/data: 9\n.*stream-gap.*stream-end/s)
    t.pass('both arrived')
  })

  t.test('a stream behind one that ends gets its turn', async (t) => {
    const { app, gate } = await start(t)
    const { socket, until } = openSocket(t, app.port)
    socket.write(get('/plain') + get('/'))
    await until(/plain.*stream-start/s)
    gate.release(9)
    await until(/data: 9\n.*stream-end/s)
    t.pass('both arrived')
  })
})

t.test('nothing accumulates on a connection that is kept alive', async (t) => {
  let serverSocket: Socket | undefined
  const { app, untilClients } = await start(t, {
    before: (fastify) => fastify.server.on('connection', (socket: Socket) => (serverSocket = socket))
  })
  const { socket, text, until } = openSocket(t, app.port)
  const counts: number[] = []
  for (let request = 1; request <= 12; request++) {
    socket.write(get('/short'))
    await until(new RegExp(`(?:\\.end\\n\\n\\r\\n0\\r\\n\\r\\n[^]*){${request}}$`))
    await untilClients(0)
    await turn()
    counts.push(
      serverSocket?.eventNames().reduce((sum, name) => sum + (serverSocket?.listenerCount(name) ?? 0), 0) ?? -1
    )
  }
  t.equal(text().match(/HTTP\/1\.1 200 OK/g)?.length, 12)
  t.equal(counts.at(-1), counts[0], `listeners after each response: ${counts.join(', ')}`)
})

t.test('a connection is kept alive after a clean end, and closed by a truncation', async (t) => {
  const clock = new ManualClock()
  const { app } = await start(t, { clock, plugin: { maxConnectionAge: 1_000 } })
  const { socket, until } = openSocket(t, app.port)
  socket.write(get('/short'))
  await until(/stream-end[^]*0\r\n\r\n$/)
  socket.write(get('/'))
  await until(/stream-end.*stream-start/s)
  const closed = new Promise((resolve) => socket.once('close', resolve))
  clock.advance(1_200)
  await closed
  t.pass('closed')
})

t.test('HTTP/1.0', async (t) => {
  t.test('gets a stream without chunks, and the connection closes at the end', async (t) => {
    const { app } = await start(t)
    const client = await app.open('/short', { protocol: 'http/1.0' })
    t.notOk('transfer-encoding' in client.headers)
    t.notOk('content-length' in client.headers)
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1', '2'])
  })

  t.test('sees a truncation as a reset, after everything that was written', async (t) => {
    const clock = new ManualClock()
    const { app, gate } = await start(t, { clock, plugin: { maxConnectionAge: 1_000 } })
    const client = await app.open('/', { protocol: 'http/1.0' })
    gate.release(2)
    await client.waitForData(2)
    let end: string | undefined
    void client.waitForEnd().then((value) => (end = value))
    while (end === undefined) {
      clock.advance(1_200)
      await turn()
    }
    t.equal(end, 'truncated')
    const resumed = await app.open('/', { protocol: 'http/1.0', lastEventId: client.lastEventId })
    gate.release(1)
    t.same(await resumed.waitForData(1), ['3'])
  })

  t.test('a client that leaves is noticed', async (t) => {
    const { app, untilClients } = await start(t)
    const client = await app.open('/', { protocol: 'http/1.0' })
    await client.drop()
    await untilClients(0)
    t.equal(app.streams.get('s')?.state, 'running')
  })
})

t.test('a truncated HTTP/2 response leaves its session usable', async (t) => {
  const clock = new ManualClock()
  const { app, gate } = await start(t, { http2: true, clock, plugin: { maxConnectionAge: 1_000 } })
  const client = await app.open('/')
  gate.release(1)
  await client.waitForData(1)
  clock.advance(1_200)
  t.equal(await client.waitForEnd(), 'truncated')
  const resumed = await client.reconnect()
  gate.release(1)
  t.same(await resumed.waitForData(1), ['2'])
})

t.test('a stalled client is cut off, and resumes without a gap', async (t) => {
  const clock = new ManualClock()
  const app = await startApp(
    t,
    (fastify) =>
      fastify.get('/', (_, reply) =>
        reply.sseFromGenerator(
          function* () {
            for (let number = 1; number <= 200; number++) yield `${number} ${'x'.repeat(100_000)}`
          },
          { streamId: 's', bufferBytes: 32 * 1024 * 1024 }
        )
      ),
    { clock: (instance) => (instance === 0 ? clock : undefined), plugin: { stallTimeout: 1_000, heartbeatInterval: 0 } }
  )
  const client = await app.open('/')
  client.pause()
  // The socket takes what fits; from then on nothing moves, and the clock is all that can change that.
  while (app.streams.stats().stalledClients === 0) {
    clock.advance(250)
    await turn()
  }
  client.resume()
  t.equal(await client.waitForEnd(), 'truncated')
  const resumed = await client.reconnect()
  t.equal(await resumed.waitForEnd(), 'end')
  const numbersOf = (data: string[]): number[] => data.map((text) => Number.parseInt(text, 10))
  t.same(
    [...numbersOf(client.data), ...numbersOf(resumed.data)],
    Array.from({ length: 200 }, (_, index) => index + 1)
  )
})
