-- HMAC-SHA256 by the OpenSSL that nginx is linked with, and a shared dictionary of IDs. The quickest way that Debian's packages
-- have: one context, keyed once.
local ffi = require "ffi"
local cjson = require "cjson"

ffi.cdef [[
  typedef struct hmac_ctx_st HMAC_CTX;
  HMAC_CTX *HMAC_CTX_new(void);
  int HMAC_Init_ex(HMAC_CTX *ctx, const void *key, int length, const void *md, void *engine);
  int HMAC_Update(HMAC_CTX *ctx, const char *data, size_t length);
  int HMAC_Final(HMAC_CTX *ctx, unsigned char *tag, unsigned int *length);
  const void *EVP_sha256(void);
  int CRYPTO_memcmp(const void *a, const void *b, size_t length);
  unsigned char *ngx_hex_dump(unsigned char *to, const unsigned char *from, size_t length);
]]

local WINDOW = 96 * 3600
local secret = os.getenv("WEBHOOK_SECRET")
local context = ffi.C.HMAC_CTX_new()
assert(ffi.C.HMAC_Init_ex(context, secret, #secret, ffi.C.EVP_sha256(), nil) == 1)
local tag, hex = ffi.new("unsigned char[32]"), ffi.new("unsigned char[64]")

local function is_genuine(body, signature)
  if not body or not signature then return false end
  local given = signature:sub(1, 7) == "sha256=" and signature:sub(8) or signature
  if #given ~= 64 then return false end
  ffi.C.HMAC_Init_ex(context, nil, 0, nil, nil)
  ffi.C.HMAC_Update(context, body, #body)
  ffi.C.HMAC_Final(context, tag, nil)
  ffi.C.ngx_hex_dump(hex, tag, 32)
  return ffi.C.CRYPTO_memcmp(hex, given, 64) == 0
end

local M = {}

function M.signature()
  if not is_genuine(ngx.req.get_body_data(), ngx.var.http_x_vpn_signature) then ngx.exit(401) end
end

function M.signature_and_replay()
  local body = ngx.req.get_body_data()
  if not is_genuine(body, ngx.var.http_x_vpn_signature) then return ngx.exit(401) end
  local _, why = ngx.shared.seen:safe_add(cjson.decode(body).id, true, WINDOW)
  if why then ngx.exit(why == "exists" and 409 or 503) end
end

return M
