import type { FastifyInstance } from 'fastify'
import { once } from 'node:events'
import { connect } from 'node:net'
import { PassThrough } from 'node:stream'
import t, { type Test } from 'tap'
import { collectGarbage } from '../helpers/collect-garbage.ts'
import { createDeferred } from '../helpers/deferred.ts'
import { eventually } from '../helpers/eventually.ts'
import { numbers } from '../helpers/numbers.ts'
import { startApp, type App, type AppOptions } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'

const LOST = 'BBBBBBBB.1'

interface Stage {
  readonly app: App
  /** Asks for a stream and leaves before its handler runs. */
  leaveEarly(path: string, lastEventId?: string): Promise<void>
  /** The response to the last request, for as long as somebody holds it. */
  response(): object | undefined
}

/** Streams that never finish, each under the name in its path. */
async function startStage(
  t: Test,
  options: AppOptions,
  addHooks: (fastify: FastifyInstance) => unknown = () => {}
): Promise<Stage> {
  const gate = new StepGate()
  const held = createDeferred()
  let response: WeakRef<object> | undefined
  const all = await startApp(
    t,
    (fastify) => {
      fastify.addHook('preHandler', async (request, { raw }) => {
        response = new WeakRef(raw)
        if (!isLeaving(request)) return
        const closed = once(raw, 'close')
        held.resolve()
        await closed
      })
      addHooks(fastify)
      fastify.get<{ Params: { id: string } }>('/:id', (request, reply) =>
        reply.sseFromGenerator(numbers(1, gate), { streamId: request.params.id })
      )
    },
    options
  )
  const app = all.at(0)
  const leaveEarly = async (path: string, lastEventId?: string): Promise<void> => {
    const client = app.send(path, { headers: { 'x-leaves': 'early' }, lastEventId })
    await held.promise
    await client.drop()
  }
  return { app, leaveEarly, response: () => response?.deref() }
}

function isLeaving({ headers }: { readonly headers: object }): boolean {
  return 'x-leaves' in headers
}

// What is at work on it has some turns to come to its end.
const MAX_ROUNDS = 50

async function isLetGo(response: () => object | undefined): Promise<boolean> {
  for (let round = 0; round < MAX_ROUNDS && response() !== undefined; round++) await collectGarbage()
  return response() === undefined
}

for (const protocol of ['http/1.1', 'h2'] as const) {
  t.test(`a client that leaves before its answer on ${protocol}`, async (t) => {
    const http2 = protocol === 'h2'

    for (const [what, path, lastEventId] of [
      ['its stream is lost', '/gone', LOST],
      ['it is refused', '/second', undefined]
    ] as const) {
      t.test(`which would be that ${what}, leaves nothing behind`, async (t) => {
        const plugin = { maxActiveStreams: 1, whenFull: 'reject' } as const
        const { app, leaveEarly, response } = await startStage(t, { http2, plugin })
        await app.open('/first')
        await leaveEarly(path, lastEventId)
        await eventually('the answer', () => app.streams.stats().gaps + app.streams.stats().rejected === 1)
        t.ok(await isLetGo(response), 'nobody holds its response')
      })
    }

    for (const path of ['/first', '/second']) {
      t.test(`is on no stream where an onSend hook then fails (${path})`, async (t) => {
        let failures = 0
        const { app, leaveEarly } = await startStage(t, { http2 }, (fastify) =>
          fastify.addHook('onSend', async (request) => {
            if (!isLeaving(request)) return
            failures++
            throw new Error('boom')
          })
        )
        await app.open('/first')
        await leaveEarly(path)
        await eventually('the hook', () => failures === 1)
        await eventually('only the first client is left', () => app.streams.stats().clients === 1)
        t.equal(app.streams.get(path.slice(1))?.state, 'running')
      })
    }

    t.test('is on no stream where somebody reads the body', async (t) => {
      let readers = 0
      const { app, leaveEarly } = await startStage(t, { http2 }, (fastify) =>
        fastify.addHook('onSend', async (request, _reply, payload) => {
          if (!isLeaving(request)) return payload
          readers++
          return (payload as NodeJS.ReadableStream).pipe(new PassThrough())
        })
      )
      await app.open('/first')
      await leaveEarly('/first')
      await eventually('the reader', () => readers === 1)
      await eventually('only the first client is left', () => app.streams.stats().clients === 1)
      t.equal(app.streams.get('first')?.state, 'running')
    })
  })
}

// On Node 20 its response never closes; the socket tells.
t.test('a client that leaves before the turn of a pipelined answer leaves nothing behind', async (t) => {
  const { app, response } = await startStage(t, {})
  const socket = connect(app.port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.on('error', () => {})
  socket.write('GET /first HTTP/1.1\r\nhost: x\r\n\r\n')
  socket.write(`GET /gone HTTP/1.1\r\nhost: x\r\nlast-event-id: ${LOST}\r\n\r\n`)
  await eventually('the answer', () => app.streams.stats().gaps === 1)
  socket.destroy()
  await eventually('the end of the connection', () => app.streams.stats().clients === 0)
  t.ok(await isLetGo(response), 'nobody holds its response')
})
