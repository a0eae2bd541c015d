import t from 'tap'
import Fastify from 'fastify'
import streamPlugin from '../../src/index.ts'

t.test('an injected response that is truncated ends, and takes nothing along', async (t) => {
  const fastify = Fastify()
  t.teardown(() => fastify.close())
  await fastify.register(streamPlugin, {
    bufferSize: 20,
    backpressure: 'none',
    maxActiveStreams: 1,
    whenFull: 'reject'
  })
  const data = Array.from({ length: 50 }, (_, i) => `event ${i}`)
  fastify.get('/behind', (_, reply) => reply.sseFromGenerator(() => data))
  fastify.get('/again', (_, reply) => reply.sseFromGenerator(() => data, { streamId: 'again', bufferSize: 50 }))

  // It falls out of the log before it is read: cut, and never told that it has everything.
  const cut = await fastify.inject('/behind').then(
    ({ body }) => body,
    () => ''
  )
  t.notMatch(cut, 'stream-end')
  const whole = await fastify.inject('/again')
  t.match(whole.body, 'event 49')
  t.match(whole.body, 'stream-end')
})
