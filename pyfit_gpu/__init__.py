"""pyfit-gpu"""
