import { test } from 'tap'
import type { Connection } from '../../src/store/connection.ts'
import type { Link } from '../../src/store/link.ts'
import { Subscriptions } from '../../src/store/subscriptions.ts'
import { createDeferred } from '../helpers/deferred.ts'
import { turn } from '../helpers/turns.ts'

test('a channel that its last listener left while a new connection was told of it is unsubscribed', async (t) => {
  const subscribed = createDeferred()
  const asked: string[] = []
  const connection = {
    subscribe: (channel: string) => {
      asked.push(`+${channel}`)
      return subscribed.promise
    },
    unsubscribe: async (channel: string) => void asked.push(`-${channel}`)
  } as unknown as Connection
  let isUp = false
  const call = async <T>(use: (connection: Connection) => Promise<T>): Promise<T> => {
    if (!isUp) throw new Error('there is no connection')
    return use(connection)
  }
  const subscriptions = new Subscriptions({ call } as Link)
  const leave = subscriptions.listen('a', () => t.fail('nobody listens any more'))
  await turn()
  isUp = true
  const renewed = subscriptions.renew(connection)
  leave()
  subscribed.resolve()
  await renewed
  await turn()
  t.strictSame(asked, ['+a', '-a'])
})
