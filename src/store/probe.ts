import { StoreInvalidError } from '../errors.ts'
import { messageOf, replyCode } from './connection.ts'
import { AnswerReader } from './record.ts'

// What a command in the probe may be refused for that will pass: the server is full, or has too few replicas.
const PASSING: ReadonlySet<string> = new Set(['OOM', 'MISCONF', 'NOREPLICAS', 'CLUSTERDOWN'])

const MIN_VERSION = 7

// What no waiting will mend. A server that was fit and refuses to write may just have handed over to another.
const FINAL: ReadonlySet<string> = new Set(['WRONGPASS', 'NOAUTH', 'NOPERM', 'MOVED'])

/** What an error says that somebody has to change; undefined where waiting may do. */
export function verdictOf(error: unknown, prefix: string): Error | undefined {
  if (error instanceof StoreInvalidError) return error
  const code = replyCode(error)
  if (code === undefined || !FINAL.has(code)) return undefined
  return new StoreInvalidError(`the server says "${messageOf(error)}". ${fixOf(code, prefix)}`, { cause: error })
}

function fixOf(code: string, prefix: string): string {
  if (code === 'WRONGPASS' || code === 'NOAUTH') return 'Give the client the right user name and password.'
  if (code === 'READONLY') return 'Connect to the primary, not to a replica.'
  if (code === 'MOVED') return 'It is a node of a cluster: give a cluster client.'
  return `Allow it to the user of the client: ${permissions(prefix)}.`
}

/** The rules of ACL SETUSER that a user needs. */
function permissions(prefix: string): string {
  const commands =
    '+hset +hgetall +hmget +hdel +del +pexpire +xadd +xrange +xtrim +time +publish +eval +evalsha +subscribe +unsubscribe +ping'
  return `${commands} ~{${prefix}:* &{${prefix}:* &${prefix}:*, in a cluster also +cluster|slots`
}

/**
 * Judges what the probe script answered.
 *
 * @throws FST_ERR_RSSE_STORE_INVALID for a server that is too old, and for what is forbidden; or what passes, as it came
 */
export function judgeProbe(answer: unknown, prefix: string): void {
  const parts = new AnswerReader(answer)
  const version = parts.text()
  if (majorOf(version) < MIN_VERSION) {
    throw new StoreInvalidError(
      `the server is ${version === '' ? 'older than Redis 7' : `version ${version}`}. Use Redis 7 or newer, or Valkey 7.2 or newer.`
    )
  }
  for (const failure of parts.list()) {
    const [command, message] = failure as [Buffer, Buffer]
    const error = new Error(message.toString())
    const code = replyCode(error)
    if (code !== undefined && PASSING.has(code)) throw error
    const fix = code === 'READONLY' ? fixOf(code, prefix) : fixOf('NOPERM', prefix)
    throw new StoreInvalidError(`${command.toString()} is refused: "${error.message}". ${fix}`, { cause: error })
  }
}

/** The first number of a version; 0 where there is none. */
export function majorOf(version: string): number {
  return Number(/^\d+/.exec(version)?.[0] ?? 0)
}
