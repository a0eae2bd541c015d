import Fastify from 'fastify'
import { once } from 'node:events'
import { connect as connectHttp2, type ClientHttp2Stream } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { PassThrough } from 'node:stream'
import t, { type Test } from 'tap'
import streamPlugin from '../../src/index.ts'

/**
 * A client that takes nothing of its answer: that its stream is gone, the first event of one that runs, or all of one that
 * has finished, whose body somebody reads.
 */
async function openStalledAnswer(t: Test, stallTimeout: number, path: '/gone' | '/running' | '/read' = '/gone') {
  const fastify = Fastify({ http2: true })
  t.teardown(() => fastify.close())
  await fastify.register(streamPlugin, { stallTimeout })
  fastify.get('/gone', (_request, reply) => reply.sseFromGenerator(() => ['a'], { streamId: 's' }))
  fastify.get('/running', (_request, reply) =>
    reply.sseFromGenerator(async function* (signal) {
      yield 'a'
      await once(signal, 'abort')
    })
  )
  const onSend = async (_request: unknown, _reply: unknown, payload: unknown): Promise<PassThrough> =>
    (payload as NodeJS.ReadableStream).pipe(new PassThrough())
  fastify.get('/read', { onSend }, (_request, reply) => reply.sseFromGenerator(() => ['a']))
  await fastify.listen({ host: '127.0.0.1', port: 0 })
  const { port } = fastify.server.address() as AddressInfo
  const session = connectHttp2(`http://127.0.0.1:${port}`, { settings: { initialWindowSize: 0 } })
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  await once(session, 'localSettings')
  const cursor = path === '/gone' ? { 'last-event-id': 'BBBBBBBB.1' } : {}
  const headers = { ':path': path, accept: 'text/event-stream', ...cursor }
  const stream: ClientHttp2Stream = session.request(headers)
  stream.on('error', () => {})
  const closed = once(stream, 'close').catch(() => {})
  await once(stream, 'response')
  return { fastify, closed }
}

t.test('an answer without a stream that nobody takes is cut off after stallTimeout', async (t) => {
  const { closed } = await openStalledAnswer(t, 200)
  await closed
  t.pass('it is closed')
})

t.test('an answer without a stream that nobody takes does not hold close()', async (t) => {
  const { fastify, closed } = await openStalledAnswer(t, Infinity)
  await fastify.close()
  await closed
  t.pass('both are closed')
})

t.test('a stream of which nobody takes a byte is cut off after stallTimeout', async (t) => {
  const { fastify, closed } = await openStalledAnswer(t, 200, '/running')
  await closed
  t.match(fastify.sseStreams.stats(), { clients: 0, stalledClients: 1 })
})

t.test('a body that has ended, and waits behind its reader, is cut off after stallTimeout', async (t) => {
  const { fastify, closed } = await openStalledAnswer(t, 200, '/read')
  await closed
  t.match(fastify.sseStreams.stats(), { clients: 0, stalledClients: 1 })
})
