import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import type { StreamPluginOptions } from '../../src/index.ts'
import { eventually } from '../helpers/eventually.ts'
import { numbers } from '../helpers/numbers.ts'
import type { SseClient } from '../helpers/sse-client.ts'
import { startApp, type App, type AppOptions } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'
import { turn } from '../helpers/turns.ts'

interface Running {
  readonly app: App
  readonly gate: StepGate
  /** The reasons with which the generators were aborted. */
  readonly reasons: unknown[]
}

/** `/:id` streams three numbers as soon as the gate lets them; `/big/:id` more than any socket takes. */
async function start(t: Test, plugin: StreamPluginOptions = {}, options: AppOptions = {}): Promise<Running> {
  const gate = new StepGate()
  const reasons: unknown[] = []
  const all = await startApp(
    t,
    (fastify) => {
      fastify.get<{ Params: { id: string } }>('/:id', (request, reply) =>
        reply.sseFromGenerator(
          async function* (signal) {
            signal.addEventListener('abort', () => reasons.push(signal.reason))
            yield* numbers(3, gate)(signal)
          },
          { streamId: request.params.id }
        )
      )
      fastify.get<{ Params: { id: string } }>('/big/:id', (request, reply) =>
        reply.sseFromGenerator(
          async function* () {
            for (;;) yield 'x'.repeat(100_000)
          },
          { streamId: request.params.id }
        )
      )
    },
    { plugin, ...options }
  )
  // The one that closes.
  return { app: all.at(0), gate, reasons }
}

async function isCutOff(t: Test, client: SseClient): Promise<void> {
  t.equal(await client.waitForEnd(), 'truncated')
  t.notMatch(client.text, /event: stream-(error|end)/, 'a stream that a shutdown cuts says nothing')
  t.notMatch(client.text, /\.end$/m, 'the client must come back')
}

for (const http2 of [false, true]) {
  t.test(`close() over ${http2 ? 'HTTP/2' : 'HTTP/1.1'}`, async (t) => {
    t.test('aborts what runs, and tells reading clients when to come back', async (t) => {
      const { app, gate, reasons } = await start(t, { retry: 10 }, { http2 })
      const client = await app.open('/s')
      gate.release(1)
      await client.waitForData(1)
      await app.fastify.close()
      await isCutOff(t, client)
      t.same(client.data, ['1'])
      const retry = client.retries.at(-1) ?? 0
      t.ok(retry >= 1_000, `${retry} leaves us the time to go`)
      t.ok(reasons[0] instanceof DOMException)
      t.match(reasons, [{ name: 'AbortError', message: 'Server shutdown' }])
      t.equal(app.streams.size, 0)
    })

    t.test('resolves with clients that do not read', async (t) => {
      const { app } = await start(t, {}, { http2 })
      const stalled = await app.open('/big/s')
      stalled.pause()
      const reading = await app.open('/reading')
      await reading.next()
      await app.fastify.close()
      await isCutOff(t, reading)
      stalled.resume()
      t.equal(await stalled.waitForEnd(), 'truncated')
      t.equal(app.streams.stats().clients, 0)
    })

    t.test('resolves with clients that have left', async (t) => {
      const { app } = await start(t, {}, { http2 })
      const clients = await Promise.all(['/a', '/b', '/big/c'].map((path) => app.open(path)))
      await Promise.all(clients.map((client) => client.drop()))
      await app.fastify.close()
      t.equal(app.streams.size, 0)
    })

    t.test('lets running streams finish within drainTimeout', async (t) => {
      const { app, gate, reasons } = await start(t, { drainTimeout: 5_000 }, { http2 })
      const client = await app.open('/s')
      await client.next()
      const closed = app.fastify.close()
      gate.release(3)
      await closed
      t.equal(await client.waitForEnd(), 'end')
      t.same(client.data, ['1', '2', '3'])
      t.equal(client.events.at(-1)?.data, '{"outcome":"completed"}')
      t.same(reasons, [])
    })

    t.test('a client that has not got all of a finished stream gets the rest of it', async (t) => {
      const { app } = await start(t, {}, { http2 })
      // More than there is room for on its way, and little enough for the second that it has, on a machine that is busy.
      const count = http2 ? 10 : 60
      await app.streams.start(() => Array.from({ length: count }, () => 'x'.repeat(100_000)), {
        streamId: 's',
        backpressure: 'none'
      })
      const client = await app.open('/s')
      client.pause()
      await eventually('it has finished', () => app.streams.get('s')?.state === 'finished')
      const closed = app.fastify.close()
      client.resume()
      await closed
      t.equal(await client.waitForEnd(), 'end')
      t.equal(client.data.length, count)
    })

    t.test('with retry: false names no delay', async (t) => {
      const { app } = await start(t, { retry: false }, { http2 })
      const client = await app.open('/s')
      await client.next()
      await app.fastify.close()
      await isCutOff(t, client)
      t.same(client.retries, [])
    })
  })
}

t.test('a finished stream that is kept for its TTL does not hold close()', async (t) => {
  const { app, gate } = await start(t)
  const client = await app.open('/s')
  gate.release(3)
  await client.waitForEnd()
  await app.fastify.close()
  t.equal(app.streams.size, 0)
})

t.test('an HTTP/1.0 client sees that it is cut off', async (t) => {
  const { app } = await start(t)
  const client = await app.open('/s', { protocol: 'http/1.0' })
  await client.next()
  await app.fastify.close()
  await isCutOff(t, client)
})

t.test('a stream without control events is cut off without a word, too', async (t) => {
  const { app } = await start(t, { controlEvents: false })
  const client = await app.open('/s')
  await client.waitUntil('the first block', () => client.lastEventId !== undefined)
  await app.fastify.close()
  await isCutOff(t, client)
})

t.test(
  'a generator that ignores its signal is let go after abortTimeout, with a warning that names its stream',
  async (t) => {
    const lines: Record<string, unknown>[] = []
    const logger = { stream: { write: (line: string) => void lines.push(JSON.parse(line)) } }
    const app = await startApp(
      t,
      (fastify) =>
        fastify.get('/', (_, reply) =>
          reply.sseFromGenerator(
            async function* () {
              yield 'a'
              await new Promise(() => {})
            },
            { streamId: 'stuck' }
          )
        ),
      { plugin: { abortTimeout: 50 }, fastify: { logger } }
    )
    const client = await app.open('/')
    await client.waitForData(1)
    await app.fastify.close()
    await isCutOff(t, client)
    t.ok(lines.some(({ level, streamId }) => level === 40 && streamId === 'stuck'))
    t.notOk(
      lines.some(({ level }) => Number(level) > 40),
      'onClose found nothing left'
    )
  }
)

t.test('a generator may run its finally within abortTimeout', async (t) => {
  let hasCleanedUp = false
  const app = await startApp(
    t,
    (fastify) =>
      fastify.get('/', (_, reply) =>
        reply.sseFromGenerator(async function* (signal) {
          try {
            yield* numbers(1, new StepGate())(signal)
          } finally {
            await turn()
            hasCleanedUp = true
          }
        })
      ),
    { plugin: { abortTimeout: 5_000 } }
  )
  await (await app.open('/')).next()
  await app.fastify.close()
  t.ok(hasCleanedUp)
})

t.test('a generator without real awaits does not starve close()', async (t) => {
  const { app } = await start(t)
  await app.streams.start(
    function* () {
      for (;;) yield 'x'
    },
    { streamId: 'busy' }
  )
  await app.fastify.close()
  t.equal(app.streams.size, 0)
})

t.test('close() twice is one shutdown', async (t) => {
  const { app, reasons } = await start(t)
  const client = await app.open('/s')
  await client.next()
  await Promise.all([app.fastify.close(), app.fastify.close()])
  await isCutOff(t, client)
  t.equal(reasons.length, 1)
})

t.test('the preClose hooks of other plugins run, before and after ours', async (t) => {
  const ran: string[] = []
  const app = await startApp(
    t,
    (fastify) => {
      fastify.addHook('preClose', async () => void ran.push('after'))
      fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1, new StepGate())))
    },
    { before: (fastify) => fastify.addHook('preClose', async () => void ran.push('before')) }
  )
  await (await app.open('/')).next()
  await app.fastify.close()
  t.same(ran, ['before', 'after'])
})

t.test('a server that never listened closes', async (t) => {
  const { app } = await start(t)
  const response = await app.fastify.inject({ url: '/s', payloadAsStream: true })
  t.equal(response.statusCode, 200)
  await app.fastify.close()
  response.stream().destroy()
})

t.test('a connection that idles after its stream does not hold close()', async (t) => {
  const { app, gate } = await start(t)
  const socket = connect(app.port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.write('GET /s HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n')
  gate.release(3)
  let text = ''
  for await (const bytes of socket) {
    text += String(bytes)
    if (text.includes('stream-end')) break
  }
  await app.fastify.close()
  t.pass('closed')
})

t.test('a process that closed its server exits by itself', async (t) => {
  const fixture = fileURLToPath(new URL('../fixtures/close-and-exit.ts', import.meta.url))
  const child = spawn(process.execPath, ['--import=tsx', fixture], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  child.stdout.on('data', (bytes) => (output += String(bytes)))
  t.same(await once(child, 'exit'), [0, null])
  t.equal(output.trim(), 'closed')
})

t.test('a process whose finished streams wait for their TTL exits by itself, too', async (t) => {
  const fixture = fileURLToPath(new URL('../fixtures/leave-and-exit.ts', import.meta.url))
  const child = spawn(process.execPath, ['--import=tsx', fixture], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  t.same(await once(child, 'exit'), [0, null])
})
