import t from 'tap'
import Fastify from 'fastify'
import streamPlugin from '../../src/index.ts'
import { eventually } from '../helpers/eventually.ts'

t.test('an injected response that is truncated ends, and takes nothing along', async (t) => {
  const fastify = Fastify()
  t.teardown(() => fastify.close())
  await fastify.register(streamPlugin, {
    bufferSize: 20,
    backpressure: 'none',
    maxActiveStreams: 1,
    whenFull: 'reject'
  })
  // However slow the machine, somewhere in so many a turn of the event loop has more of them than the log.
  const many = Array.from({ length: 10_000 }, (_, i) => `event ${i}`)
  const few = many.slice(0, 50)
  fastify.get('/behind', (_, reply) => reply.sseFromGenerator(() => many))
  fastify.get('/again', (_, reply) => reply.sseFromGenerator(() => few, { streamId: 'again', bufferSize: 50 }))

  // It falls out of the log before it is read: cut, and never told that it has everything.
  const cut = await fastify.inject('/behind').then(
    ({ body }) => body,
    () => ''
  )
  t.notMatch(cut, 'stream-end')
  await eventually('its generator is through', () => fastify.sseStreams.stats().running === 0)
  const whole = await fastify.inject('/again')
  t.match(whole.body, 'event 49')
  t.match(whole.body, 'stream-end')
})
