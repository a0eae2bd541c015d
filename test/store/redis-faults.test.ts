import { test } from 'tap'
import type { News } from '../../src/store/store.ts'
import { eventually } from '../helpers/eventually.ts'
import { hasRedis, RedisServer } from '../helpers/redis-server.ts'
import {
  address,
  beat,
  frame,
  invalid,
  LEASE_MS,
  libraries,
  life,
  make,
  open,
  unavailable,
  sign
} from '../helpers/redis-store.ts'
import { untilAnswered } from '../helpers/until-answered.ts'

const hasServer = await new Promise<boolean>((resolve) => {
  void test('there is a server to test with', async (t) => resolve(hasRedis(t)))
})
const options = { skip: !hasServer }

for (const [library, client] of libraries) {
  test(`${library}: a server that stops and starts again`, options, async (t) => {
    const server = await RedisServer.start(t)
    const { store, lines, calls } = await open(t, client(server.port))
    const told: (News | undefined)[] = []
    store.follow(address, (news) => told.push(news))
    await store.create(address, life)
    await eventually('it is followed', () => told.length > 0)
    await server.stop()
    await t.rejects(store.append(address, frame(1)), unavailable)
    await t.rejects(store.read(address, 0, 0), unavailable)
    t.strictSame(calls, [])
    await server.start()
    await eventually('the host is told', () => calls.length > 0)
    t.strictSame(await store.append(address, frame(1)), { kind: 'missing' }, 'it had kept nothing')
    await eventually('it is followed again', () => told.filter((news) => news === undefined).length > 1)
    await store.create(address, life)
    await untilAnswered(() => store.append(address, frame(1)))
    await eventually('news come again', () => told.at(-1)?.lastSequence === 1)
    await eventually('the log says that it is over', () => lines.length > 1)
    t.match(lines, [
      { level: 'warn', message: 'the store does not answer; it is tried again until it does' },
      { level: 'info', message: 'the store answers again' }
    ])
    t.equal(lines.length, 2)
  })

  test(`${library}: a server that hangs`, options, async (t) => {
    const server = await RedisServer.start(t)
    const { store, calls } = await open(t, client(server.port))
    await store.create(address, life)
    await store.append(address, frame(1))
    server.hang()
    for (let round = 0; round < 3; round++) {
      const began = performance.now()
      await Promise.all([
        t.rejects(store.append(address, frame(2)), unavailable),
        t.rejects(store.read(address, 0, 0), unavailable),
        t.rejects(store.stop(address), unavailable)
      ])
      t.ok(performance.now() - began < LEASE_MS, 'within a third of the lease, give or take')
    }
    server.goOn()
    await eventually('the host is told', () => calls.includes('return'))
    const answer = await untilAnswered(() => store.append(address, frame(2)))
    t.equal(answer.kind === 'stored' || answer.kind === 'apart' ? answer.lastSequence : answer, 2)
  })

  test(`${library}: a server that hangs does not keep a store from closing`, options, async (t) => {
    const server = await RedisServer.start(t)
    const { store } = await open(t, client(server.port))
    server.hang()
    const refused = t.rejects(store.read(address, 0, 0), unavailable)
    const began = performance.now()
    await store.close(50)
    t.ok(performance.now() - began < LEASE_MS / 3, 'not even for a time-out')
    await refused
  })

  test(`${library}: a server that cannot be reached is waited for`, options, async (t) => {
    const server = await RedisServer.start(t)
    await server.stop()
    const { store, lines, calls } = await open(t, client(server.port))
    t.match(lines, [{ level: 'warn' }])
    await t.rejects(store.create(address, life), unavailable)
    await server.start()
    await eventually('the host is told', () => calls.includes('return'))
    t.strictSame(await store.create(address, life), { kind: 'made' })
    const told: (News | undefined)[] = []
    store.follow(address, (news) => told.push(news))
    await eventually('it is followed', () => told.length > 0)
  })

  test(`${library}: connections that are killed are replaced`, options, async (t) => {
    const server = await RedisServer.start(t)
    const { store } = await open(t, client(server.port))
    const told: (News | undefined)[] = []
    store.follow(address, (news) => told.push(news))
    await store.create(address, life)
    await eventually('it is followed', () => told.length === 1)
    await server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await eventually('it is followed again', () => told.length === 2)
    t.strictSame(told, [undefined, undefined])
    await untilAnswered(() => store.append(address, frame(1)))
    await eventually('news come', () => told.at(-1)?.lastSequence === 1)
    await server.command('CLIENT', 'KILL', 'TYPE', 'normal')
    t.match(await untilAnswered(() => store.append(address, beat(1))), { kind: 'stored' })
  })

  test(`${library}: a wrong password is said at once`, options, async (t) => {
    const server = await RedisServer.start(t, ['--requirepass', 'right'])
    for (const access of [{ password: 'wrong' }, {}]) {
      const { store, host, lines } = make(t, client(server.port, access))
      await t.rejects(store.open(host), { ...invalid, message: /user name and password/ })
      await t.rejects(store.read(address, 0, 0), unavailable, 'it is closed')
      t.strictSame(lines, [])
    }
    const { store } = await open(t, client(server.port, { password: 'right' }))
    t.strictSame(await store.create(address, life), { kind: 'made' })
  })

  test(`${library}: what has to be changed is said once the server can be reached`, options, async (t) => {
    const server = await RedisServer.start(t, ['--requirepass', 'right'])
    await server.stop()
    const { store, lines } = await open(t, client(server.port))
    await server.start()
    await eventually('it is said', () => lines.length > 1)
    t.match(lines, [
      { level: 'warn' },
      { level: 'error', fields: { err: { ...invalid, message: /user name and password/ } } }
    ])
    await t.rejects(store.read(address, 0, 0), unavailable)
  })

  test(`${library}: a user needs the permissions of the README and no others`, options, async (t) => {
    const server = await RedisServer.start(t)
    const access = { username: 'app', password: 'secret' }
    const commands =
      `hset hgetall hmget hdel del pexpire xadd xrange xtrim time publish eval evalsha subscribe unsubscribe ping`.split(
        ' '
      )
    const rules = [...commands.map((command) => `+${command}`), '~{rsse:*', '&{rsse:*', '&rsse:*']
    const allow = async (...allowed: string[]): Promise<void> => {
      t.equal(
        await server.command('ACL', 'SETUSER', 'app', 'reset', 'on', '>secret', 'resetchannels', ...allowed),
        '+OK\r\n'
      )
    }
    await allow(...rules)
    const { store } = await open(t, client(server.port, access))
    await store.create(address, life)
    t.match(await store.append(address, frame(1)), { kind: 'stored' })
    t.ok(await store.read(address, 0, 1_000, sign))
    t.ok(await store.stop(address))
    await store.close(0)
    for (const [index, rule] of rules.entries()) {
      await allow(...rules.toSpliced(index, 1))
      const { store, host } = make(t, client(server.port, access))
      await t.rejects(
        store.open(host),
        { ...invalid, message: rule.startsWith('+') ? new RegExp(rule.slice(1), 'i') : /./ },
        rule
      )
    }
  })
}
