import t from 'tap'
import { checkEveryByte } from '../helpers/cut-responses.ts'

for (const fault of ['cut', 'reset'] as const) {
  t.test(`${fault} after every byte of an HTTP/2 response: a client that resumes has everything`, (t) =>
    checkEveryByte(t, 'h2', fault)
  )
}
